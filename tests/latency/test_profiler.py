"""Profiling on the null runtime, whose time is simulated: what is measured when, and the resulting table."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.architecture import Architecture
from nas.devices.client import Graph
from nas.devices.runtimes.null import OVERHEAD_NS
from nas.devices.timing import Protocol
from nas.errors import TableError
from nas.latency import calibration_networks
from nas.latency.calibration_networks import spread, whole_networks
from nas.latency.profiler import GRAPHS_PER_BATCH, NETWORK_BATCHES, PASSES, Subject, profile, schedule, table_header
from nas.latency.rows import CALIBRATION, HELD_OUT, MeasuredNetwork, RepeatedLayer, boundary_layer
from nas.latency.table import LatencyTable
from nas.latency.verification import verify
from nas.networks.network import Layer, canonical, totals, trace
from nas.spaces.automaton import best_path, reachable
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.utils.reporting import Reporter

QUIET = Reporter(quiet=True)


@pytest.fixture
def space(tiny_space: Path) -> Space:
    return load_space(str(tiny_space))


def new_table(tmp_path: Path) -> LatencyTable:
    return LatencyTable.open(tmp_path / "table.jsonl", table_header("null", 1))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> bytes:
    """The file of a table of the tiny space, measured once."""
    folder = tmp_path_factory.mktemp("profiled")
    (folder / "tiny.yaml").write_text(tiny_text, encoding="utf-8")
    table = new_table(folder)
    space = load_space(str(folder / "tiny.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_networks, "SMALL_MACS", 0.0)
        assert profile(space, table, QUIET) == len(reachable(space))
    return table.path.read_bytes()


@pytest.fixture
def table(profiled: bytes, tmp_path: Path) -> LatencyTable:
    (tmp_path / "table.jsonl").write_bytes(profiled)
    return new_table(tmp_path)


def test_a_profiled_table_covers_is_calibrated_and_certified(space: Space, table: LatencyTable) -> None:
    assert table.missing(reachable(space), Protocol().visits) == []
    certificate = table.certificates[space.key]
    networks = [network for network in table.networks if network.role == HELD_OUT]
    assert certificate.networks == len(networks) == 25
    assert certificate.mean_error < 0.01
    assert certificate.spearman > 0.99
    assert certificate.repeatability == 0.0
    predictor = table.predictor(space.key)
    for network in networks:
        assert predictor.predict(network.arch) == pytest.approx(table.network_ms(network), rel=0.03)


def test_profiling_what_is_there_measures_and_writes_nothing(space: Space, table: LatencyTable) -> None:
    before = table.path.read_bytes()
    assert profile(space, table, QUIET) == 0
    assert table.path.read_bytes() == before


def test_a_seam_saves_the_call_of_a_layer(space: Space, table: LatencyTable) -> None:
    assert table.boundary_saving_ms((12, 8, 8)) == pytest.approx(OVERHEAD_NS / 1e6)
    assert table.calibrations[space.key].seam == pytest.approx(1.0, abs=0.1)


@pytest.fixture
def many_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate with as many networks as `profiled`."""
    monkeypatch.setattr("nas.latency.calibration_networks.CALIBRATING", 20)
    monkeypatch.setattr("nas.latency.calibration_networks.CERTIFYING", 25)


@pytest.mark.usefixtures("many_networks")
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_profile_cut_anywhere_continues_to_a_calibrated_table(
    share: float, space: Space, table: LatencyTable, profiled: bytes, tmp_path: Path
) -> None:
    table.path.write_bytes(profiled[: int(len(profiled) * share)])
    again = new_table(tmp_path)
    profile(space, again, QUIET)
    assert set(again.rows) == set(table.rows)
    assert again.certificates[space.key].mean_error < 0.01
    for arch in sample_networks(space, 5, "any"):
        expected = table.predictor(space.key).predict(arch)
        assert again.predictor(space.key).predict(arch) == pytest.approx(expected, rel=0.01)


@pytest.mark.usefixtures("many_networks")
def test_a_space_that_was_edited_is_calibrated_on_its_own(space: Space, tiny_space: Path, table: LatencyTable) -> None:
    tiny_space.write_text(tiny_space.read_text().replace("kernel_size: [3, 5]", "kernel_size: [3, 5, 7]"))
    edited = load_space(str(tiny_space))
    assert edited.key != space.key
    assert edited.key == edited.for_classes(7).key
    assert profile(edited, table, QUIET) > 0
    assert set(table.certificates) == {space.key, edited.key}
    assert table.certificates[edited.key].mean_error < 0.01
    (arch,) = sample_networks(edited, 1, "any")
    assert table.predictor(edited.key).predict(arch) > 0


def test_networks_of_a_killed_run_for_other_classes_do_not_stand_in_the_way(space: Space, tmp_path: Path) -> None:
    table = new_table(tmp_path)
    table.append((network, [(0.0, 1.0)]) for network in whole_networks(space.for_classes(7)))
    profile(space, table, QUIET)
    assert table.certificates[space.key].mean_error < 0.1


def test_a_table_is_never_made_of_another_file(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(TableError, match="line 1: the header must have"):
        LatencyTable.open(path, table_header("null", 1))
    assert path.read_text() == '{"mine": 1}'


def test_a_space_of_few_networks_is_measured_but_not_calibrated(tmp_path: Path) -> None:
    network = load_space("squeezenet_1.1")
    table = new_table(tmp_path)
    assert profile(network, table, QUIET) == len(reachable(network))
    assert table.certificates == {}
    assert len(table.rows) == len(reachable(network))
    assert table.predictor(network.name).predict(network.decode({})) > 0


@pytest.mark.usefixtures("many_networks")
def test_networks_that_calibrate_span_the_space_and_none_certifies() -> None:
    space = load_space("mobile")
    networks = whole_networks(space)
    roles = {role: [n.arch for n in networks if n.role == role] for role in (CALIBRATION, HELD_OUT)}
    assert len(roles[CALIBRATION]) == calibration_networks.CALIBRATING
    assert len(roles[HELD_OUT]) == calibration_networks.CERTIFYING
    assert not set(roles[CALIBRATION]) & set(roles[HELD_OUT])
    assert networks == whole_networks(space)
    macs = sorted(totals(trace(arch)).macs for arch in roles[CALIBRATION])
    others = [totals(trace(arch)).macs for arch in sample_networks(space, 100, "others")]
    assert macs[0] < sorted(others)[10]
    assert macs[-1] > sorted(others)[-10]


def test_small_networks_are_calibrated_by_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("mobile")
    usual = whole_networks(space)
    monkeypatch.setattr(calibration_networks, "SMALL_MACS", float("inf"))
    more = whole_networks(space)
    added = [network for network in more if network not in usual]
    assert {network.role for network in added} == {CALIBRATION}
    assert len(more) == len(usual) + calibration_networks.CALIBRATING
    assert [each for each in more if each.role == HELD_OUT] == [each for each in usual if each.role == HELD_OUT]


def test_spread_reaches_from_the_fewest_macs_to_the_most() -> None:
    space = load_space("mobile")
    archs = spread(space, 12)
    macs = [totals(trace(arch)).macs for arch in archs]
    fewest, most = (best_path(space, lambda layer: layer.macs, largest=largest)[0] for largest in (False, True))
    assert macs == sorted(macs)
    assert len(set(archs)) >= 10
    assert macs[0] < fewest * (most / fewest) ** 0.2
    assert macs[-1] > fewest * (most / fewest) ** 0.8
    assert archs == spread(space, 12)


def test_spread_over_one_network_is_at_most_that_network() -> None:
    space = load_space("squeezenet_1.1")
    assert set(spread(space, 5)) <= {canonical(space.decode({}))}


def subjects(layers: int, networks: int) -> list[Subject]:
    layer = boundary_layer((8, 4, 4))
    arch = load_space("squeezenet_1.1").decode({})
    return [
        *(Subject(Graph(f"{index}", "", ()), layer if index % 7 else RepeatedLayer(layer)) for index in range(layers)),
        *(Subject(Graph(f"n{index}", "", ()), network(arch)) for index in range(networks)),
    ]


def network(arch: Architecture) -> MeasuredNetwork:
    return MeasuredNetwork("any", HELD_OUT, arch)


@pytest.mark.parametrize(("layers", "networks"), [(1839, 45), (100, 45), (1, 2), (0, 8), (900, 0)])
def test_a_schedule_visits_layers_once_a_pass_and_networks_between_them(layers: int, networks: int) -> None:
    batches = schedule(subjects(layers, networks), PASSES)
    keys = [[subject.graph.key for subject in batch] for batch in batches]
    for index in range(layers):
        assert sum(f"{index}" in batch for batch in keys) == PASSES
    for index in range(networks):
        assert min(PASSES, NETWORK_BATCHES) <= sum(f"n{index}" in batch for batch in keys) < 2 * NETWORK_BATCHES
    assert all(sum(not key.startswith("n") for key in batch) <= GRAPHS_PER_BATCH for batch in keys)
    assert keys == [[subject.graph.key for subject in batch] for batch in schedule(subjects(layers, networks), PASSES)]
    if layers > GRAPHS_PER_BATCH:
        assert keys[0] != keys[len(keys) // PASSES]


def test_a_table_is_verified_by_networks_it_has_not_seen(space: Space, table: LatencyTable) -> None:
    verification = verify(space, table, QUIET)
    assert verification.holds
    assert verification.verdict == "the table is accurate"
    assert 5 <= verification.as_predicted.networks <= 10
    assert verification.factor == pytest.approx(1.0, abs=0.01)


def test_a_table_of_a_slower_hour_ranks_but_does_not_hold(space: Space, table: LatencyTable) -> None:
    for samples in table.rows.values():
        samples[:] = [(at, 1.25 * ms) for at, ms in samples]
    table._estimates.clear()
    verification = verify(space, table, QUIET)
    assert not verification.holds
    assert verification.factor == pytest.approx(0.8, abs=0.01)
    assert "takes 0.80 times as long" in verification.verdict


def test_a_table_that_does_not_cover_the_space_cannot_be_verified(space: Space, tmp_path: Path) -> None:
    table = new_table(tmp_path)
    layer: Layer = reachable(space)[0]
    table.append([(layer, [(0.0, 1.0)])])
    with pytest.raises(TableError, match="is not covered"):
        verify(space, table, QUIET)
