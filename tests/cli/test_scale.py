"""`nas scale` as a user runs it, on the null runtime: families, latencies, and every kind of bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.networks.network import canonical, totals, trace
from nas.spaces.yaml_format import load_architecture
from nas.training.job import read_architecture
from tests.scaling.test_presets import B0_TO_B7

SMALL = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 16, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 24, stride: 2}
head: {block: classifier, hidden_channels: 32}
"""
SHALLOW = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
head: {block: classifier}
"""
DETECTOR = """
resolution: 64
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 16, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 24, stride: 2, tap: true}
  - {block: mbconv, out_channels: 32, stride: 2, tap: true}
neck:
  - {block: bifpn, depth: 2, out_channels: 16, levels: 3}
head: {block: efficientdet_head, num_classes: 3, num_layers: 1}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder of one's own, with a small network."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL, encoding="utf-8")
    Path("shallow.yaml").write_text(SHALLOW, encoding="utf-8")


def scaled(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """Return what `nas scale ... --json` prints: one line."""
    assert main(["scale", *argv, "--json", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line that a wrong command prints, which leaves nothing behind."""
    before = set(Path().rglob("*"))
    try:
        status = main(["scale", *argv, "--quiet"])
    except SystemExit as error:
        status = int(str(error.code))
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert set(Path().rglob("*")) == before
    return captured.err


def test_efficientnet_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "efficientnet_b0", "--preset", "efficientnet")
    family = result["family"]
    assert [(entry["params"], entry["macs"]) for entry in family] == B0_TO_B7
    assert [entry["name"] for entry in family] == [f"b{number}" for number in range(8)]
    for number, entry in enumerate(family):
        assert entry["architecture"] == canonical(load_architecture(f"efficientnet_b{number}")).digest
        assert read_architecture(entry["file"]).digest == entry["architecture"]
    assert result["rule"] == result["preset"] == "efficientnet"
    assert result["coefficients"] is None
    assert result["missing_dimensions"] == {}


def test_efficientdet_is_exact_and_names_what_leaves_its_rule(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("efficientdet_d0", "--preset", "efficientdet")
    family = scaled(capsys, *argv)["family"]
    assert [entry["name"] for entry in family] == [*(f"d{number}" for number in range(8)), "d7x"]
    for entry in family:
        assert entry["architecture"] == canonical(load_architecture(f"efficientdet_{entry['name']}")).digest
        assert read_architecture(entry["file"]).digest == entry["architecture"]
    assert family[5]["deviations"] == {"resolution": [1280, 1152], "neck_cells": [7, 8]}
    assert family[5]["detector"] == {"neck_channels": 288, "neck_cells": 7, "head_layers": 4}
    assert main(["scale", *argv, "--quiet"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "leaves the rule" in line]
    assert notes[0] == "d5: leaves the rule: resolution 1280 instead of 1152, neck_cells 7 instead of 8"
    assert [note.partition(":")[0] for note in notes] == ["d5", "d6", "d7", "d7x"]


def test_a_detector_is_scaled_by_a_rule_to_a_latency_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    Path("detector.yaml").write_text(DETECTOR, encoding="utf-8")
    by_rule = scaled(capsys, "detector.yaml", "--coefficients", "1.2,1.1,1.15", "--phi", "0,2", "--run", "rule")
    assert by_rule["family"][1]["detector"] == {"neck_channels": 24, "neck_cells": 3, "head_layers": 2}
    null = ("--runtime", "null")
    timed = scaled(capsys, "detector.yaml", "--phi", "0,1", "--measure", *null, "--run", "timed")
    assert timed["family"][0]["latency_ms"] < timed["family"][1]["latency_ms"]
    target_ms = 2 * timed["family"][0]["latency_ms"]
    for rule in ((), ("--preset", "efficientdet")):
        met = scaled(capsys, "detector.yaml", "--latency", f"{target_ms}ms", *rule, *null, "--run", f"met{len(rule)}")
        assert met["family"][0]["latency_ms"] <= target_ms


def test_a_rules_family_is_written_to_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "mnasnet_a1_1.0", "--coefficients", "1.2,1.1,1.15", "--phi", "0..3")
    assert result["coefficients"] == {"alpha": 1.2, "beta": 1.1, "gamma": 1.15}
    assert result["rounding"] == {"divisor": 8, "repeats": "ceil", "resolution_step": 4, "head": "scaled"}
    base = canonical(load_architecture("mnasnet_a1_1.0"))
    assert result["base"]["architecture"] == base.digest
    assert (result["base"]["params"], result["base"]["macs"]) == (3_887_038, 311_579_072)
    family = result["family"]
    assert [entry["phi"] for entry in family] == [0, 1, 2, 3]
    assert family[0]["architecture"] == base.digest
    for entry in family:
        arch = read_architecture(entry["file"])
        assert arch.digest == entry["architecture"]
        whole = totals(trace(arch))
        assert (whole.params, whole.macs) == (entry["params"], entry["macs"])
        assert entry["growth"] == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** entry["phi"])
        assert entry["latency_ms"] is None
    assert [entry["resolution"] for entry in family] == [224, 256, 296, 340]
    folder = Path("runs/scale-mnasnet_a1_1.0")
    assert json.loads((folder / "family.json").read_text()) == result
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert result["measured_on"] is None


def test_factors_by_hand_are_every_combination(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(
        capsys, "small.yaml", "--depth", "1,2", "--width", "0.5", "--resolution", "24,48", "--run", "by_hand"
    )
    assert result["rule"] == "by hand"
    found = [(sum(entry["repeats"]), entry["channels"], entry["resolution"]) for entry in result["family"]]
    assert found == [(5, [8, 8, 16], 24), (5, [8, 8, 16], 48), (9, [8, 8, 16], 24), (9, [8, 8, 16], 48)]
    files = [entry["file"] for entry in result["family"]]
    assert len(set(files)) == 4
    assert {Path(file).parent for file in files} == {Path("by_hand/family")}
    for entry in result["family"]:
        assert read_architecture(entry["file"]).digest == entry["architecture"]


def test_roundings_are_told_and_followed(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(
        capsys, "small.yaml", "--phi", "1", "--divisor", "4", "--repeats", "round", "--resolution-step", "16",
        "--head", "never-narrower", "--run", "rounded",
    )  # fmt: skip
    assert result["rounding"] == {
        "divisor": 4, "repeats": "round", "resolution_step": 16, "head": "never narrower"
    }  # fmt: skip
    (entry,) = result["family"]
    assert (entry["repeats"], entry["channels"], entry["resolution"]) == ([1, 2, 2], [8, 16, 28], 32)


@pytest.mark.parametrize("preset", ["dWr", "uniform", "depth", "width", "resolution"])
def test_rules_of_presets_scale_any_network(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "small.yaml", "--preset", preset, "--phi", "0,2")
    assert (result["rule"], result["family"][0]["macs_ratio"]) == (preset, 1.0)
    assert result["family"][1]["growth"] == pytest.approx(4)


def test_a_dimension_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "shallow.yaml", "--width", "2")
    assert result["missing_dimensions"] == {"depth": "no stage can be repeated (conv)"}
    assert result["family"][0]["channels"] == [16]


def test_a_family_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "small.yaml", "--phi", "0..2", "--measure", "--runtime", "null")
    latencies = [entry["latency_ms"] for entry in result["family"]]
    assert latencies == sorted(latencies)
    for entry in result["family"]:
        assert entry["latency_ms"] == pytest.approx(0.005 + 2 * entry["macs"] * 1e-7, rel=0.02)
    assert result["base"]["latency_ms"] == latencies[0]
    assert result["measured_on"]["runtime"] == "null"
    assert result["measured_on"]["measured"] is True


def test_a_measured_family_is_not_measured_again_but_another_one_is(capsys: pytest.CaptureFixture[str]) -> None:
    first = scaled(capsys, "small.yaml", "--width", "0.5", "--measure", "--runtime", "null")
    table = Path("runs/scale-small/networks.jsonl")
    visits = table.read_text(encoding="utf-8")
    assert scaled(capsys, "small.yaml", "--width", "0.5", "--measure", "--runtime", "null") == first
    assert table.read_text(encoding="utf-8") == visits
    second = scaled(capsys, "small.yaml", "--width", "2", "--measure", "--runtime", "null")
    assert second["family"][0]["architecture"] != first["family"][0]["architecture"]
    assert [str(path) for path in Path("runs/scale-small/family").iterdir()] == [second["family"][0]["file"]]


def test_latencies_are_met_just_under(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("mobilenet_v2_0.35", "--latency", "20ms,40ms", "--runtime", "null", "--run", "met")
    result = scaled(capsys, *argv)
    assert [entry["target_latency_ms"] for entry in result["family"]] == [20, 40]
    for entry in result["family"]:
        assert 0.95 * entry["target_latency_ms"] <= entry["latency_ms"] <= entry["target_latency_ms"]
        assert entry["holds_target"] is entry["within_5_percent"] is True
        assert entry["latency_ms"] == pytest.approx(0.005 + 2 * entry["macs"] * 1e-7, rel=0.02)
        assert read_architecture(entry["file"]).digest == entry["architecture"]
    assert result["base"]["latency_ms"] < 20
    again = scaled(capsys, *argv)
    assert [entry["architecture"] for entry in again["family"]] == [
        entry["architecture"] for entry in result["family"]
    ]  # fmt: skip


def test_a_written_network_is_scaled_further(capsys: pytest.CaptureFixture[str]) -> None:
    first = scaled(capsys, "small.yaml", "--phi", "1", "--run", "first")
    second = scaled(capsys, first["family"][0]["file"], "--phi", "0,1", "--run", "second")
    assert second["base"]["architecture"] == first["family"][0]["architecture"]
    assert second["family"][1]["macs"] > second["base"]["macs"]


def test_the_printed_table_names_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "small.yaml", "--phi", "0,2,2.01", "--measure", "--runtime", "null", "--quiet"]) == 0
    out = capsys.readouterr().out
    words = (
        "efficientnet's",
        "channels to multiples of 8",
        "phi 0",
        "phi 2",
        "phi 2.01: rounds to the same network as phi 2",
        "family.png",
    )
    for word in words:
        assert word in out


BAD = {
    "no network": (["absent.yaml"], "absent.yaml"),
    "no such name": (["mobilenet_v2_1.1"], "mobilenet_v2_1.1.*did you mean 'mobilenet_v2_1"),
    "a space": (["mnasnet"], "mnasnet: a space with .* choices"),
    "json of something else": (["list.json"], "list.json: not an architecture"),
    "no json": (["text.json"], "text.json: not JSON"),
    "an empty folder": (["empty"], "empty"),
    "a folder of another result": (["other"], "other/scale.json: not the result of a coefficient search"),
    "a coefficient below 1": (["small.yaml", "--coefficients", "0.9,1.1,1.1"], "alpha must be at least 1: 0.9"),
    "two coefficients": (["small.yaml", "--coefficients", "1.2,1.1"], "--coefficients: .* three numbers.*: '1.2,1.1'"),
    "coefficients of 1": (["small.yaml", "--coefficients", "1,1,1"], "--coefficients: .* above 1: '1,1,1'"),
    "coefficients in words": (["small.yaml", "--coefficients", "a,b,c"], "--coefficients: not a number: 'a'"),
    "an unknown preset": (["small.yaml", "--preset", "efficentnet"], "--preset.*did you mean 'efficientnet'"),
    "two rules": (["small.yaml", "--preset", "dWr", "--coefficients", "1.2,1.1,1.1"],
                  "--preset: cannot be combined with --coefficients"),
    "a preset of a search": (["small.yaml", "--preset", "latency_aware"], "no coefficients: --search finds them"),
    "a table with phi": (["small.yaml", "--preset", "mnasnet", "--phi", "1"],
                         "--preset: 'mnasnet' .* it is a table: omit --phi"),
    "a table with latency": (["small.yaml", "--preset", "mnasnet", "--latency", "1ms"], "it is a table"),
    "by hand with a preset": (["small.yaml", "--width", "2", "--preset", "dWr"],
                              "--width: cannot be combined with --preset"),
    "by hand with phi": (["small.yaml", "--width", "2", "--phi", "1"], "--phi"),
    "by hand with latency": (["small.yaml", "--width", "2", "--latency", "1ms"],
                             "--latency: cannot be combined with .*--width"),
    "phi and latency": (["small.yaml", "--phi", "1", "--latency", "1ms"], "--latency: cannot be combined with --phi"),
    "phi in words": (["small.yaml", "--phi", "one"], "--phi: not a number: 'one'"),
    "phi backwards": (["small.yaml", "--phi", "3..1"], "--phi: .* above the last: '3..1'"),
    "phi twice": (["small.yaml", "--phi", "1,1"], "--phi: .* distinct: '1,1'"),
    "no phi": (["small.yaml", "--phi", ""], "--phi: must not be empty"),
    "phi that leaves no input": (["small.yaml", "--phi=-14"], "--phi: phi -14: resolution: .* stride of 8: .* -10.3"),
    "phi that leaves no depth": (["small.yaml", "--phi=-8", "--repeats", "round"],
                                 "--phi: phi -8: depth: .* leaves none; .* -7.6"),
    "phi without end": (["small.yaml", "--phi", "1e6"],
                        "--phi: phi 1000000: depth: .*; the nearest valid phi is about [1-9]"),
    "much phi": (["small.yaml", "--phi", "200"], "--phi|phi 200"),
    "width that leaves nothing": (["small.yaml", "--width", "0.01"], "width: 0.01 times the 8 out_channels"),
    "width without end": (["small.yaml", "--width", "1e300"], "width"),
    "depth without end": (["small.yaml", "--depth", "1e300"], "depth"),
    "resolution without end": (["small.yaml", "--resolution", "1e300"], "resolution"),
    "a resolution under the stride": (["small.yaml", "--resolution", "7"], "--resolution: 7 px .* of 8: .* at least 8"),
    "a negative factor": (["small.yaml", "--depth=-1"], "--depth: must be a factor above zero: -1"),
    "half a pixel": (["small.yaml", "--resolution", "32.5"], "--resolution: .* pixels .*: 32.5"),
    "no factor": (["small.yaml", "--width", ""], "--width: must not be empty"),
    "no depth to scale": (["shallow.yaml"], "shallow.yaml: this network has no depth to scale"),
    "no depth for a preset": (["shallow.yaml", "--preset", "depth"], "--preset: this network has no depth to scale"),
    "no depth by hand": (["shallow.yaml", "--depth", "2"], "--depth: this network has no depth to scale"),
    "a divisor of nothing": (["small.yaml", "--divisor", "0"], "--divisor: must be a whole number of at least 1: 0"),
    "a divisor in words": (["small.yaml", "--divisor", "x"], "--divisor"),
    "a step of nothing": (["small.yaml", "--resolution-step", "0"], "--resolution-step: must be a whole number"),
    "an unknown rounding": (["small.yaml", "--repeats", "floor"], "--repeats: unknown.*: 'floor'; known: ceil, round"),
    "an unknown head": (["small.yaml", "--head", "wider"], "--head: unknown.*: 'wider'; known: fixed"),
    "a latency without unit": (["small.yaml", "--latency", "5"], "--latency: a latency needs a unit"),
    "a negative latency": (["small.yaml", "--latency=-5ms"], "--latency: a latency must be above zero"),
    "a latency twice": (["small.yaml", "--latency", "5ms,5ms"], "--latency: .* distinct: '5ms,5ms'"),
    "no latency": (["small.yaml", "--latency", ""], "--latency: must not be empty"),
    "an unknown runtime": (["small.yaml", "--measure", "--runtime", "nul"], "runtime.*'nul'.*did you mean 'null'"),
    "no threads": (["small.yaml", "--measure", "--runtime", "null", "--threads", "0"], "--threads"),
    "an unknown device": (["small.yaml", "--measure", "--device", "nowhere"], "nowhere"),
    "an unknown table": (["small.yaml", "--latency", "1ms", "--table", "absent.json"], "absent.json"),
    "a table that measures": (["small.yaml", "--measure", "--table", "pixel1"],
                              "--table: .* cannot be combined with --measure"),
    "a device for nothing": (["small.yaml", "--device", "ssh://a"], "--device: .* nothing is measured: add --measure"),
    "a step for given pixels": (["small.yaml", "--resolution", "64", "--resolution-step", "8"],
                                "--resolution-step: .* given in pixels: 8"),
    "a step for a table's pixels": (["small.yaml", "--preset", "mobilenet_v2", "--resolution-step", "8"],
                                    "--resolution-step: .* given in pixels: 8"),
    "a preset that cannot be": (["shallow.yaml", "--preset", "efficientnet"], "--preset: b1: depth: this network"),
    "a detector's rule for a classifier": (["small.yaml", "--preset", "efficientdet", "--phi", "1"],
                                           "--preset: neck: this network has no neck to scale"),
    "a detector's table for a classifier": (["small.yaml", "--preset", "efficientdet"], "--preset: d0: neck: .* neck"),
    "a table of detectors with phi": (["efficientdet_lite0", "--preset", "efficientdet_lite", "--phi", "1"],
                                      "--preset: 'efficientdet_lite' .* it is a table: omit --phi"),
    "a detector's input": (["pelee_ssd_voc", "--resolution", "256"],
                           "--resolution: 256 px cannot be built: stage 15, layer 0: plain_conv"),
    "search: a detector": (["efficientdet_d0", "--search", "--runtime", "null"],
                           "head: block: must be a classifier: 'efficientdet_head'"),
    "no such network": (["mobilnet_v2_1.0"], "unknown network 'mobilnet_v2_1.0'; did you mean 'mobilenet_v2_1.0'"),
    "a space's name": (["mnasnet_a1"], "unknown network 'mnasnet_a1'; did you mean 'mnasnet_a1_1"),
    "a result's file": (["other/scale.json"], "other/scale.json: .*give its folder; did you mean 'other'"),
    "search: a preset without a budget": (["small.yaml", "--search", "--preset", "width"],
                                          "--preset: .*: 'width'; .*: efficientnet, latency_aware"),
    "a table and nothing to predict": (["small.yaml", "--table", "absent.json"], "--table|absent.json"),
    "a search's flag": (["small.yaml", "--step", "0.1"], "--step: .* add --search"),
    "a run that is a file": (["small.yaml", "--run", "text.json"], "--run: cannot be created: .*: 'text.json'"),
    "an unknown flag": (["small.yaml", "--dept", "2"], "--dept"),
    "search: a budget": (["small.yaml", "--search", "--budget", "flops"], "--budget.*'flops'"),
    "search: times": (["small.yaml", "--search", "--times", "1"], "--times: must be above 1 and below 1000: 1"),
    "search: times nan": (["small.yaml", "--search", "--times", "nan"], "--times: must be above 1 and below 1000: nan"),
    "search: tolerance": (["small.yaml", "--search", "--tolerance", "0"], "--tolerance: must be between 0 and 1: 0"),
    "search: objective": (["small.yaml", "--search", "--objective", "sof"], "--objective.*did you mean 'soft'"),
    "search: coefficients": (["small.yaml", "--search", "--coefficients", "1.2,1.1,1.1"],
                             "--coefficients: cannot be combined with --search"),
    "search: phi and latency": (["small.yaml", "--search", "--phi", "1", "--latency", "5ms"], "--phi"),
    "search: evaluator": (["small.yaml", "--search", "--evaluator", "prox"], "evaluator.*'prox'"),
    "search: seeds": (["small.yaml", "--search", "--compare-seeds=-1"], "--compare-seeds: must be at least 0: -1"),
    "search: trials": (["small.yaml", "--search", "--trials=-1"], "--trials: must be at least 0: -1"),
    "search: no data": (["small.yaml", "--search", "--data", "nothing", "--runtime", "null"], "nothing"),
    "search: step": (["small.yaml", "--search", "--step", "0", "--runtime", "null"], "--step: must be above zero: 0"),
    "search: wide step": (["small.yaml", "--search", "--step", "9", "--runtime", "null"],
                          "--step: is larger than the allowed growth: 9"),
    "search: fine step": (["small.yaml", "--search", "--step", "0.001", "--runtime", "null"], "--step: .* points"),
    "search: controller": (["small.yaml", "--search", "--controller", "exhaustiv", "--runtime", "null"],
                           "--controller.*did you mean 'exhaustive'"),
    "search: exponent": (["small.yaml", "--search", "--objective", "hard", "--exponent=-0.1", "--runtime", "null"],
                         "--exponent: .*'soft'.*'hard': -0.1"),
    "search: phi": (["small.yaml", "--search", "--phi", "x", "--runtime", "null"], "--phi: not a number: 'x'"),
    "search: latency": (["small.yaml", "--search", "--latency", "5", "--runtime", "null"],
                        "--latency: a latency needs"),
    "search: no point": (["small.yaml", "--search", "--budget", "macs", "--tolerance", "0.0001", "--runtime", "null"],
                         "--budget: no grid point is within 0.01% of 2 times the base's macs"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_one_line_and_nothing_written(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.json").write_text("[1]", encoding="utf-8")
    Path("text.json").write_text("not json", encoding="utf-8")
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/scale.json").write_text("{}", encoding="utf-8")
    argv, message = BAD[what]
    line = refused(capsys, *argv)
    assert "nas scale: error: " in line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        ("6us", "--latency: is below the latency of the base.*: '0.006 ms'"),
        ("1e9s", r"--latency: is out of reach.*: '1e\+09 s'"),
    ],
)
def test_latencies_that_no_network_of_the_rule_takes(
    latency: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", "small.yaml", "--latency", latency, "--runtime", "null", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert not Path("runs/scale-small").exists()
    assert len(captured.err.strip().splitlines()) == 1
    assert re.search(message, captured.err), captured.err
    assert not list(Path().rglob("family*"))


def test_what_the_user_keeps_beside_a_family_stays_and_what_was_asked_before_goes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine/family").mkdir(parents=True)
    Path("mine/family/own.json").write_text("{}", encoding="utf-8")
    first = scaled(capsys, "small.yaml", "--phi", "1,2", "--run", "mine")
    assert main(["scale", "small.yaml", "--width", "2.0000001,2.0000002", "--run", "mine"]) == 0
    assert "replaces the family of small.yaml by rule: efficientnet's" in capsys.readouterr().err
    names = {path.name for path in Path("mine/family").iterdir()}
    assert names == {"own.json", "d1_w2.0000001_32_px.json", "d1_w2.0000002_32_px.json"}
    assert not {Path(entry["file"]).name for entry in first["family"]} & names
    Path("mine/family.json").write_text("[]", encoding="utf-8")
    assert "mine/family.json" in refused(capsys, "small.yaml", "--run", "mine")


def test_a_family_whose_networks_are_gone_is_not_finished(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["small.yaml", "--measure", "--runtime", "null", "--phi", "1", "--run", "m"]
    first = scaled(capsys, *flags)
    table = Path("m/networks.jsonl").read_bytes()
    assert scaled(capsys, *flags) == first
    for gone in (Path(first["family"][0]["file"]), Path("m/family.png")):
        gone.unlink()
        again = scaled(capsys, *flags)
        assert gone.is_file()
        assert again["family"] == first["family"]
    assert Path("m/networks.jsonl").read_bytes() == table  # nothing was measured again


def test_a_run_that_cannot_be_a_folder_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "small.yaml", "--run", "small.yaml/sub")
    assert re.search("--run: cannot be created: .*: 'small.yaml/sub'", line)


def test_rounding_that_leaves_the_base_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = scaled(capsys, "small.yaml", "--divisor", "64", "--width", "0.9,1")
    assert [entry["same_as"] for entry in result["family"]] == ["base", None]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rounding", {"divisor": 0}, "--divisor: must be a whole number of at least 1: 0"),
        ("rounding", {"divisor": "8"}, "--divisor: must be a whole number of at least 1: '8'"),
        ("rounding", {"repeats": "floor"}, "--repeats: unknown rounding: 'floor'; known: ceil, round"),
        ("rounding", {"head": 3}, "no attribute 'replace'"),
        ("rounding", None, "TypeError"),
        ("coefficients", {"alpha": 0.5}, "alpha must be at least 1: 0.5"),
        ("coefficients", {"gamma": "x"}, "not a number: 'x'"),
        ("coefficients", None, "TypeError"),
    ],
)
def test_a_result_that_somebody_changed_is_one_line(
    key: str, value: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored: dict[str, Any] = {
        "base": {"blocks": load_architecture("small.yaml").to_dict()},
        "coefficients": {"gamma": 1.1, "beta": 1.2, "alpha": 1.3},
        "rounding": {"head": "never narrower", "repeats": "round", "divisor": 4, "resolution_step": 2},
    }
    Path("found").mkdir()
    Path("found/scale.json").write_text(json.dumps(stored), encoding="utf-8")
    result = scaled(capsys, "found", "--phi", "1", "--run", "fine")
    assert result["coefficients"] == {"alpha": 1.3, "beta": 1.2, "gamma": 1.1}
    assert result["rounding"] == stored["rounding"]
    stored[key] = None if value is None else {**stored[key], **value}
    Path("found/scale.json").write_text(json.dumps(stored), encoding="utf-8")
    line = refused(capsys, "found", "--phi", "1")
    assert "found/scale.json: not the result of a coefficient search" in line
    assert message in line
