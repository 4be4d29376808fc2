"""The networks of a rule that take given latencies, on a source of known latencies; and the real sources."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.errors import SpaceError, TableError, UsageError
from nas.latency.calibration import Calibration
from nas.latency.profiler import table_header
from nas.latency.robust_estimation import linked
from nas.latency.rows import CALIBRATION, MeasuredNetwork
from nas.latency.table import LatencyPredictor, LatencyTable
from nas.networks.network import trace
from nas.scaling.latency_targets import MAX_ROUNDS, LatencyEstimator, LatencyTarget, TargetResult, meet_targets
from nas.scaling.network_latency import MIN_VISITS, NETWORKS_FILE, MeasuredLatency, NetworkLatency, PredictedLatency
from nas.scaling.presets import Coefficients, from_exponents
from nas.scaling.scale import scale
from nas.scaling.sizes import Factors, Rounding
from nas.utils.reporting import Reporter
from tests.helpers.scaled_networks import BASE, ScriptedLatency, macs, noise

COMPOUND = Coefficients(1.2, 1.1, 1.15)
ROUNDING = Rounding(divisor=1, resolution_step=2)
"""Fine enough that every target can be met."""
MACS = macs(BASE)
QUIET = Reporter(quiet=True)


def by_macs(arch: Architecture) -> float:
    """10 ms for the base, and less than twice as much for twice the MACs."""
    return float(10 * (macs(arch) / MACS) ** 0.8)


def by_network(arch: Architecture) -> float:
    """Networks of the same MACs differ by up to 8 %."""
    return by_macs(arch) * (1 + 0.04 * noise(arch.digest))


def met(
    network_latency: NetworkLatency, *targets: tuple[Coefficients, float], rounding: Rounding = ROUNDING
) -> list[TargetResult]:
    return meet_targets(
        LatencyEstimator(BASE, network_latency), [LatencyTarget(*target) for target in targets], rounding, QUIET
    )


@pytest.mark.parametrize(
    ("truth", "error"), [(by_macs, 0.0), (by_macs, 0.02), (by_network, 0.0), (by_network, 0.015)]
)  # fmt: skip
def test_targets_are_met_just_under_and_confirmed(truth: Any, error: float) -> None:
    network_latency = ScriptedLatency(truth, error)
    near = 16.0 if truth is by_network or error else 12.5
    for target_ms in (near, 20.0, 45.0):
        (found,) = met(network_latency, (COMPOUND, target_ms))
        arch = found.member.architecture
        assert found.is_close
        assert found.holds
        assert 0.95 * target_ms <= found.latency_ms <= target_ms
        assert found.latency_ms == network_latency.ms(arch)
        assert abs(found.latency_ms / truth(arch) - 1) <= error + 1e-9
        assert network_latency.session_count(arch) >= 2
        assert arch == scale(BASE, found.member.factors, ROUNDING)
    assert len(network_latency.timed) <= 3 * (MAX_ROUNDS + 1)
    assert all(BASE.digest in session for session in network_latency.timed)


def test_several_rules_and_targets_share_their_sessions() -> None:
    network_latency = ScriptedLatency(by_macs)
    targets = [(COMPOUND, 20.0), (COMPOUND, 40.0), (from_exponents(0, 0, 1), 20.0)]
    together = met(network_latency, *targets)
    assert [each.target_ms for each in together] == [20.0, 40.0, 20.0]
    assert all(each.is_close for each in together)
    assert together[2].member.factors == replace(Factors(), resolution=together[2].member.factors.resolution)
    last = network_latency.timed[-1]
    assert {each.member.architecture.digest for each in together} <= set(last)
    assert len(network_latency.timed) <= MAX_ROUNDS + 1


def test_the_same_measurements_give_the_same_networks() -> None:
    first, second = (met(ScriptedLatency(by_network, 0.015), (COMPOUND, 23.0)) for _ in range(2))
    assert first == second


def test_a_target_under_the_base_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"--latency: is below the latency of the base, 10 ms.*: '9 ms'"):
        met(ScriptedLatency(by_macs), (COMPOUND, 20.0), (COMPOUND, 9.0))


def test_a_target_that_no_phi_reaches_names_the_largest() -> None:
    deep = Coefficients(1.2, 1, 1)
    with pytest.raises(UsageError, match=r"--latency: .* the last valid phi, 31.9, .* 2.\d+ s: '1e\+04 s'"):
        met(ScriptedLatency(by_macs), (deep, 1e6 * by_macs(BASE)))
    scale(BASE, deep.at(31.85), ROUNDING)
    with pytest.raises(SpaceError, match="over 1,000"):
        scale(BASE, deep.at(31.91), ROUNDING)


@pytest.mark.parametrize("gamma", [1.001, 1.0000001])
def test_a_rule_that_grows_slowly_gets_there_all_the_same(gamma: float) -> None:
    (found,) = met(ScriptedLatency(by_macs), (Coefficients(1, 1, gamma), 3 * by_macs(BASE)))
    assert found.is_close
    assert (found.member.phi or 0) > 100


def test_steps_that_are_too_coarse_give_the_slowest_that_holds() -> None:
    """Depth alone, and a divisor so large that no other dimension could stray."""
    depth = from_exponents(1, 0, 0)
    network_latency = ScriptedLatency(by_macs)
    made = [by_macs(scale(BASE, Factors(depth=1 + step / 12), ROUNDING)) for step in range(36)]
    under = sorted({ms for ms in made if ms > 10})
    low, high = next((low, high) for low, high in pairwise(under) if high / low > 1.08)
    (found,) = met(network_latency, (depth, high * 0.99))
    assert found.latency_ms == pytest.approx(low)
    assert found.holds
    assert not found.is_close
    assert network_latency.session_count(found.member.architecture) >= 2


def test_one_dimension_strays_where_the_common_steps_are_too_coarse_and_it_is_told() -> None:
    """Steps of 32 px and channels of 16: between two phi there is nothing but what one dimension alone gives."""
    coarse, strayed = Rounding(divisor=16, resolution_step=32), []
    for target_ms in (14.0, 26.0):
        (found,) = met(ScriptedLatency(by_macs), (COMPOUND, target_ms), rounding=coarse)
        assert found.holds
        if found.own_phis:
            strayed.append(found)
    assert strayed
    for found in strayed:
        factors = found.member.factors
        own = COMPOUND.at(found.member.phi or 0.0)
        for name, phi in found.own_phis.items():
            assert getattr(factors, name) == getattr(COMPOUND.at(phi), name) != getattr(own, name)
        alike = dict.fromkeys(found.own_phis, 1.0)
        assert replace(factors, **alike) == replace(own, **alike)  # type: ignore[arg-type]
        assert min(factors.depth, factors.width, factors.resolution) >= 1


def test_an_estimator_expects_what_similar_networks_take_for_their_macs() -> None:
    network_latency = ScriptedLatency(by_macs)
    estimator = LatencyEstimator(BASE, network_latency)
    twice, more, most = (scale(BASE, Factors(resolution=factor), ROUNDING) for factor in (1.5, 2.0, 3.0))
    estimator.measure([twice, most])
    assert estimator.estimate_ms(twice) == estimator.ms(twice) == by_macs(twice)
    assert estimator.ms(twice) < estimator.estimate_ms(more) < estimator.ms(most)
    assert estimator.estimate_ms(more) == pytest.approx(by_macs(more), rel=0.08)
    assert network_latency.session_count(more) == 0
    assert not estimator.is_confirmed(twice)
    estimator.measure([twice])
    assert estimator.is_confirmed(twice)


def test_timed_keeps_all_visits_in_a_table_of_the_folder(tmp_path: Path) -> None:
    other = scale(BASE, Factors(resolution=1.5), ROUNDING)
    timed = MeasuredLatency(tmp_path, "null", 1)
    assert timed.session_count(BASE) == 0
    timed.measure([BASE, other])
    assert (timed.session_count(BASE), timed.session_count(other)) == (1, 1)
    timed.measure([BASE])
    assert (timed.session_count(BASE), timed.session_count(other)) == (2, 1)
    first = timed.ms(BASE), timed.ms(other)
    assert 0 < first[0] < first[1]
    later = MeasuredLatency(tmp_path, "null", 1, purpose="later")
    assert (later.session_count(BASE), later.ms(BASE), later.ms(other)) == (2, *first)
    assert len(later.table.networks) == 3  # each session is a space of its own


def test_timed_tells_again_what_was_measured_session_by_session(tmp_path: Path) -> None:
    other, path = scale(BASE, Factors(resolution=1.5), ROUNDING), tmp_path / NETWORKS_FILE
    timed = MeasuredLatency(tmp_path, "null", 1)
    timed.measure([BASE, other])
    early = timed.ms(BASE)
    timed.measure([BASE])
    text, late = path.read_text(encoding="utf-8"), timed.ms(BASE)
    again = MeasuredLatency(tmp_path, "null", 1)
    assert again.session_count(BASE) == 0
    again.measure([other, BASE])
    assert (again.session_count(BASE), again.ms(BASE)) == (1, early)  # the second session is not known yet
    again.measure([BASE])
    assert (again.session_count(BASE), again.ms(BASE)) == (2, late)
    assert path.read_text(encoding="utf-8") == text
    again.measure([BASE, other])
    assert (again.session_count(BASE), again.session_count(other)) == (3, 2)

    path.write_text(text[: text.rindex('"ms"')], encoding="utf-8")  # killed in the middle of a line
    cut = MeasuredLatency(tmp_path, "null", 1)
    cut.measure([BASE, other])
    cut.measure([BASE])  # what was cut short is measured again
    assert (cut.session_count(BASE), cut.session_count(other)) == (2, 1)
    assert path.read_text(encoding="utf-8") != text

    anew = MeasuredLatency(tmp_path, "null", 1)
    anew.measure([other])  # another question: all that is known counts from here on
    assert (anew.session_count(BASE), anew.session_count(other)) == (2, 2)
    anew.measure([BASE, other])
    assert (anew.session_count(BASE), anew.session_count(other)) == (3, 3)


def test_timed_goes_on_with_its_own_sessions_behind_those_of_another_command(tmp_path: Path) -> None:
    other, third = scale(BASE, Factors(resolution=1.5), ROUNDING), scale(BASE, Factors(width=1.5), ROUNDING)
    path = tmp_path / NETWORKS_FILE

    def asked(arch: Architecture) -> MeasuredLatency:
        timed = MeasuredLatency(tmp_path, "null", 1)
        timed.measure([BASE])
        timed.measure([BASE, arch])
        return timed

    asked(other)
    first = asked(third)
    text = path.read_text(encoding="utf-8")
    again = asked(third)
    assert path.read_text(encoding="utf-8") == text
    assert (again.ms(BASE), again.ms(third), again.session_count(BASE)) == (first.ms(BASE), first.ms(third), 3)


def test_a_session_that_was_killed_after_one_of_its_passes_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / NETWORKS_FILE
    timed = MeasuredLatency(tmp_path, "null", 1)
    timed.measure([BASE])
    timed.measure([BASE])
    assert max(map(timed.table.sample_count, timed.table.networks)) > MIN_VISITS  # fast networks get more
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-2]), encoding="utf-8")  # of three passes one is left
    cut = MeasuredLatency(tmp_path, "null", 1)
    assert min(map(cut.table.sample_count, cut.table.networks)) >= MIN_VISITS
    cut.measure([BASE])
    left = path.read_text(encoding="utf-8")
    cut.measure([BASE])
    assert len(path.read_text(encoding="utf-8")) > len(left)


def test_a_target_of_the_base_follows_what_is_known_of_the_base() -> None:
    """The base is 20 % quicker from its third session on: twice its latency is so, too."""

    class Learning(ScriptedLatency):
        def ms(self, arch: Architecture) -> float:
            found = super().ms(arch)
            return 0.8 * found if arch == BASE and self.session_count(BASE) > 2 else found

    network_latency = Learning(by_macs)
    estimator = LatencyEstimator(BASE, network_latency)
    (found,) = meet_targets(estimator, [LatencyTarget(COMPOUND, 2.0, of_base=True)], ROUNDING, QUIET)
    assert found.target_ms == pytest.approx(2 * estimator.ms(BASE))
    assert found.is_close


def test_sessions_are_linked_by_what_they_share() -> None:
    """A machine that is twice as fast in one session makes nobody faster than who was in the other."""
    truth = {"base": 1.0, "a": 2.0, "b": 3.0, "c": 5.0}
    speeds = {"slow": 2.0, "usual": 1.0, "again": 1.0}
    who = {"slow": ("base", "a"), "usual": ("base", "b"), "again": ("b", "c")}
    sessions = {name: {one: truth[one] * speeds[name] for one in who[name]} for name in who}
    assert linked(sessions) == pytest.approx(truth)
    assert linked({"only": {"a": 1.5, "b": 2.5}}) == pytest.approx({"a": 1.5, "b": 2.5})
    assert linked({"counted": {"a": 0.0, "b": 2.5}}) == {"a": 0.0, "b": 2.5}


def test_a_session_of_a_slower_machine_moves_no_ratio(tmp_path: Path) -> None:
    other = scale(BASE, Factors(resolution=1.5), ROUNDING)
    third = scale(BASE, Factors(width=1.5), ROUNDING)
    timed = MeasuredLatency(tmp_path, "null", 1, purpose="later")
    for number, (slow, archs) in enumerate([(1.0, [BASE, other]), (1.4, [BASE, third]), (1.0, [BASE, other])]):
        rows = [MeasuredNetwork(f"session {number}", CALIBRATION, arch) for arch in archs]
        visits = [(number + place / 100, slow * by_macs(row.arch)) for row in rows for place in range(12)]
        timed.table.append([(row, visits[12 * place : 12 * place + 12]) for place, row in enumerate(rows)])
    for arch in (BASE, other, third):
        assert timed.ms(arch) == pytest.approx(by_macs(arch), rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"runtime": "onnxruntime"}, "runtime is 'onnxruntime' in the table and 'null' here"),
     ({"threads": 4}, "threads is 4 in the table and 1 here"), ({"runtime_version": "0"}, "runtime_version is '0'"),
     ({"host": "board"}, "host is 'board' in the table")],
)  # fmt: skip
def test_a_folder_with_latencies_of_another_device_is_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    LatencyTable.open(tmp_path / NETWORKS_FILE, {**table_header("null", 1), **change}).append(())
    with pytest.raises(TableError) as raised:
        MeasuredLatency(tmp_path, "null", 1)
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / NETWORKS_FILE}: ")
    assert message in line
    assert line.endswith("give another --run")
    assert "\n" not in line


def test_a_table_predicts_what_it_covers_and_names_the_nearest_row_of_what_it_does_not(tmp_path: Path) -> None:
    table = LatencyTable.open(tmp_path / "board.jsonl", table_header("null", 1))
    layers = list(dict.fromkeys(trace(BASE)))
    table.append([(layer, [(float(number), 1.0 + number)]) for number, layer in enumerate(layers)])
    predicted = PredictedLatency(LatencyPredictor(table, Calibration()), "a board")
    predicted.measure([BASE])
    assert predicted.session_count(BASE) >= 2
    assert predicted.ms(BASE) == pytest.approx(sum(1.0 + layers.index(layer) for layer in trace(BASE)))
    larger = scale(BASE, Factors(resolution=1.5), ROUNDING)
    for ask in (lambda: predicted.measure([BASE, larger]), lambda: predicted.ms(larger)):
        with pytest.raises(TableError, match=r"board.jsonl: .*conv.* 3x96x96 is not covered; nearest is .*conv.*3x64"):
            ask()
    with pytest.raises(TableError, match="is not covered; nearest is"):
        met(predicted, (COMPOUND, 1000.0))
