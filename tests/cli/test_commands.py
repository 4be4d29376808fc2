"""The commands as a user runs them: whole searches on the null runtime, kills, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from nas.cli.main import main
from nas.latency.table import LatencyTable
from nas.study.study import JOURNAL
from nas.utils.paths import shipped
from tests.helpers.nas_process import kill_when, start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

NULL = ["--runtime", "null", "--target-latency", "1ms"]
ENDED = '"state":1,'
"""In a journal: a trial has come to its end."""


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def run_without_winner(capsys: pytest.CaptureFixture[str], *argv: str) -> None:
    """Search and leave out the winner: only the trials are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.searching.job.find_winners", lambda search: ())
        run_json(capsys, *argv)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line that a wrong command prints."""
    try:
        status = main(list(argv))
    except SystemExit as error:
        status = int(str(error.code))
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    line = captured.err.strip().splitlines()[-1]
    assert "error: " in line
    return line


def history(folder: Path) -> list[tuple[str, float]]:
    result = json.loads((folder / "result.json").read_text())
    return [(trial["architecture"], trial["accuracy"]) for trial in result["candidates"]]


def search_args(space: Path, run: Path, *more: str) -> list[str]:
    return ["search", "--space", str(space), "--run", str(run), "--trials", "4", "--seed", "1", *NULL, *more]


def test_a_whole_search(tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "a"
    result = run_json(capsys, *search_args(tiny_space, run))
    assert result == json.loads((run / "result.json").read_text())
    assert result["target_latency_ms"] == 1.0
    assert (result["objective"], result["trials"], result["seed"]) == ("soft", 4, 1)
    assert result["holds_target"] is True
    best = result["best"]
    assert 0 < best["latency_ms"]["measured"] <= 1.0
    assert best["latency_ms"]["predicted"] == pytest.approx(best["latency_ms"]["measured"], rel=0.5)
    assert 0 <= best["test_accuracy"] <= 1
    assert {path.name for path in Path(best["model"]).iterdir()} >= {"model.py", "model.safetensors", "model.onnx"}
    card = json.loads((Path(best["model"]) / "card.json").read_text())
    assert card["architecture"] == best["architecture"]
    assert card["test_accuracy"] == best["test_accuracy"]
    assert (card["params"], card["macs"]) == (best["params"], best["macs"])
    assert {"hwnas", "torch", "onnxruntime"} <= set(result["versions"])
    assert result["front"][0]["latency_ms"] <= result["front"][-1]["latency_ms"]
    assert result["settings"]["proxy"]["resolution"] == 8
    assert (run / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("controller", "objective"), [("random", "hard"), ("tpe", "constrained"), ("tpe", "pareto")])
def test_controllers_and_objectives(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], controller: str, objective: str
) -> None:
    args = search_args(tiny_space, tmp_path / "a", "--objective", objective, "--controller", controller,
                       "--finalist-seeds", "0")  # fmt: skip
    result = run_json(capsys, *args)
    assert result["objective"] == objective
    assert len({trial["architecture"] for trial in result["candidates"]}) == result["trials"] == 4


def test_the_same_seed_gives_the_same_trials_and_more_trials_continue(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, *search_args(tiny_space, tmp_path / "a"))
    run_without_winner(capsys, *search_args(tiny_space, tmp_path / "b"))
    assert history(tmp_path / "a") == history(tmp_path / "b")
    written = (tmp_path / "a" / "result.json").read_text()
    assert run_json(capsys, *search_args(tiny_space, tmp_path / "a")) == json.loads(written)
    run_json(capsys, *search_args(tiny_space, tmp_path / "a", "--trials", "6"))
    assert history(tmp_path / "a")[:4] == history(tmp_path / "b")
    assert len(history(tmp_path / "a")) == 6


@pytest.mark.slow
def test_a_killed_search_continues_as_if_nothing_had_happened(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_without_winner(capsys, *search_args(tiny_space, tmp_path / "whole", "--trials", "6"))
    killed = tmp_path / "killed"
    journal = killed / JOURNAL
    process = start_nas(search_args(tiny_space, killed, "--trials", "6"))
    kill_when(process, lambda: journal.is_file() and journal.read_text().count(ENDED) >= 2)
    done_before = journal.read_text().count(ENDED)
    assert done_before >= 2
    run_json(capsys, *search_args(tiny_space, killed, "--trials", "6"))
    assert history(killed) == history(tmp_path / "whole")
    assert journal.read_text().count(ENDED) == 6


def test_the_trials_of_a_small_space_end_with_the_space(
    tmp_path: Path, tiny_space: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.searching.loop.ALL_ATTEMPTS", 200)
    text = tiny_space.read_text().replace("[12, 16]", "12").replace("depth: [1, 2]", "depth: 1")
    text = text.replace("depth: [0, 1]", "depth: 1").replace("kernel_size: [3, 5], ", "")
    tiny_space.write_text(text)
    result = run_json(capsys, *search_args(tiny_space, tmp_path / "a", "--trials", "20"))
    assert result["trials"] == 5


def test_a_result_that_misses_its_target_says_so(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas.devices.timing import Latency

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "nas.searching.winners.measure_networks", lambda archs, *_: [Latency(5.0, 4.0, 6.0, 10, 0.0) for _ in archs]
        )
        assert main([*search_args(tiny_space, tmp_path / "a")]) == 0
    captured = capsys.readouterr()
    assert "DOES NOT HOLD 1 ms" in captured.out
    assert "none of the 4 measured candidates meets 1 ms" in captured.err
    assert json.loads((tmp_path / "a" / "result.json").read_text())["holds_target"] is False


@pytest.mark.parametrize("path", sorted(shipped("experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_experiment_runs_two_trials(
    path: Path, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = path.read_text().split("\n\n")[0]
    assert "# Command:" in header
    flags = ["--space", str(tiny_space), "--data", "digits", "--trials", "2", "--run", str(tmp_path / "a"), *NULL]
    flags += ["--target-latency", "1s", "--supernet-epochs", "1", "--finalist-seeds", "0", "--resolution", "32"]
    assert run_json(capsys, "search", str(path), *flags)["trials"] == 2


def test_profile_measures_what_is_missing_and_then_nothing(
    tiny_space: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(private_cache)
    first = run_json(capsys, "profile", "--space", str(tiny_space), "--runtime", "null")
    assert first["measured"] == first["layers"] > 10
    again = run_json(capsys, "profile", "--space", str(tiny_space), "--runtime", "null")
    assert again["measured"] == 0
    assert again["fastest_ms"] == first["fastest_ms"] < first["slowest_ms"]
    assert Path(first["table"]).is_file()


def test_profile_measures_the_resolutions_that_are_asked_for(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["profile", "--space", str(tiny_space), "--runtime", "null", "--table", str(tmp_path / "t.jsonl"), "--json"]
    assert main([*args, "--quiet", "--resolution", "48,64"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["measured"] == result["layers"]
    sizes = {network.arch.resolution for network in LatencyTable.open(tmp_path / "t.jsonl").networks}
    assert sizes == {48, 64}
    assert main(["show", str(tiny_space), "--resolution", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resolution"] == [64]


def test_an_interrupted_profile_continues(tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.jsonl"
    args = ["profile", "--space", str(tiny_space), "--runtime", "null", "--table", str(table)]
    whole = run_json(capsys, *args)
    content = table.read_bytes()
    table.write_bytes(content[: len(content) * 9 // 10])
    again = run_json(capsys, *args)
    assert 0 < again["measured"] < whole["layers"]
    assert again["slowest_ms"] == whole["slowest_ms"]


def test_show_counts_mobilenet_v2(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "show", "mobilenet_v2_1.0")
    assert (result["params"], result["macs"]) == (3504872, 300774272)
    assert main(["show", "mobilenet_v2_1.0"]) == 0
    printed = capsys.readouterr().out
    for words in ("3,504,872 parameters", "6,679,112 activations", "MACs per element", "G1 channel ratio", "breaks"):
        assert words in printed


def test_show_gives_costs_and_verdicts_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "show", "shufflenet_v2_1.0")
    for key in ("activations", "memory_access", "element_wise_access"):
        assert result[key] == sum(layer[key] for layer in result["layers"])
    assert result["peak_activation"] == max(layer["peak_activation"] for layer in result["layers"])
    assert result["arithmetic_intensity"] == pytest.approx(result["macs"] / result["memory_access"])
    assert [rule["name"][:2] for rule in result["guidelines"]] == ["G1", "G2", "G3", "G4"]
    assert {rule["verdict"] for rule in result["guidelines"]} <= {"follows", "breaks"}


def test_show_draws_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "network.svg"
    assert run_json(capsys, "show", "squeezenet_1.1", "--svg", str(picture))["svg"] == str(picture)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    line = refused(capsys, "show", "squeezenet_1.1", "--svg", str(tmp_path / "none" / "x.svg"))
    assert "x.svg cannot be written: No such file" in line


def test_show_prints_stages_choices_and_exact_size(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "show", "mnasnet")
    assert result["size"] == 432**5 * 289**2
    assert len(result["stages"]) == 9
    assert result["choices"]["stage3.kernel_size"] == [3, 5]
    assert main(["show", "mnasnet"]) == 0
    assert f"{432**5 * 289**2:,}" in capsys.readouterr().out


def test_export_of_a_network_and_of_a_run(tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = run_json(capsys, "export", "shufflenet_v2_1.0", "--classes", "5", "--out", str(tmp_path / "fresh"))
    assert fresh["weights"] == "fresh, not trained"
    run_json(capsys, *search_args(tiny_space, tmp_path / "a", "--trials", "1"))
    again = run_json(capsys, "export", str(tmp_path / "a"), "--out", str(tmp_path / "again"), "--runtime", "torch")
    assert (tmp_path / "again" / "model.pt2").is_file()
    first = json.loads((tmp_path / "a" / "model" / "card.json").read_text())
    assert again["check"] == first["check"]
    assert again["test_accuracy"] == first["test_accuracy"]


def test_export_with_the_weights_of_torchvision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import torchvision

    from nas.networks.exported_folder import check_input, load_exported

    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(num_classes=1000)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    flags = ["--weights", str(tmp_path / "theirs.pth"), "--out", str(tmp_path / "model")]
    card = run_json(capsys, "export", "mobilenet_v2_1.0", *flags)
    assert card["weights"] == str(tmp_path / "theirs.pth")
    _, ours, _ = load_exported(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            ours(check_input((3, 224, 224))), theirs.eval()(check_input((3, 224, 224))), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    "kind", ["networks", "spaces", "blocks", "runtimes", "controllers", "evaluators", "objectives", "presets"]
)
def test_everything_that_can_be_named_is_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows: Any = run_json(capsys, "list", kind)
    assert all(row["name"] for row in rows)
    if kind == "networks":
        assert len(rows) >= 80
        assert all(row["params"] > 0 and row["macs"] > 0 for row in rows)
    assert main(["list", kind]) == 0
    assert f"{len(rows)} entries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["search"], "--target-latency: is required"),
        (["search", "--target-latency", "20"], "write '20ms' or '20s'"),
        (["search", "--target-latency=-3ms"], "must be above zero"),
        (["search", "--target-latency", "20ms", "--space", "mnasnot"], "did you mean 'mnasnet'"),
        (["search", "--target-latency", "20ms", "--data", "digts"], "did you mean 'digits'"),
        (["search", "--target-latency", "20ms", "--runtime", "onxruntime"], "did you mean 'onnxruntime'"),
        (["search", "--target-latency", "20ms", "--controller", "tpee"], "did you mean 'tpe'"),
        (["search", "--target-latency", "20ms", "--objective", "paretto"], "did you mean 'pareto'"),
        (["search", "--target-latency", "20ms", "--evaluator", "x"], "unknown evaluator 'x'; known: grad_norm, "),
        (["search", "--target-latency", "20ms", "--evaluator", "sinflow"], "did you mean 'synflow'"),
        (["search", "--target-latency", "20ms", "--evaluator", "tabular"], "needs --accuracies FILE"),
        (["search", "--target-latency", "20ms", "--accuracies", "a.csv"], "no such file or folder: 'a.csv'"),
        (["search", "--target-latency", "20ms", "--accuracies", "a.csv", "--evaluator", "macs"],
         "--accuracies: is for the evaluator 'tabular', not for 'macs'"),
        (["search", "--target-latency", "20ms", "--accuracies", "a.csv", "--evaluator", "tabular", "--supernet", "b"],
         "an evaluator has one source"),
        (["search", "--target-latency", "20ms", "--warm-start", "naswat"], "did you mean 'naswot'"),
        (["search", "--target-latency", "20ms", "--warm-start-samples", "0"], "--warm-start-samples: must be at least"),
        (["search", "--target-latency", "20ms", "--trials", "-1"], "--trials: must be at least 0: -1"),
        (["search", "--target-latency", "20ms", "--trials", "many"], "invalid int value: 'many'"),
        (["search", "--target-latency", "20ms", "--trails", "3"], "'--trails'; did you mean '--trials'"),
        (["search", "--target-latency", "20ms", "--alpha", "1"], "--alpha: must be in [-10, 0]: 1.0"),
        (["search", "none.yaml", "--target-latency", "20ms"], "none.yaml: no such file"),
        (["show", "mobilenet_v2"], "did you mean 'mobilenet_v2"),
        (["show", "mnasnet", "--resolution", "8"], "--resolution: networks of 'mnasnet' cannot be built for it (stage"),
        (["profile", "--resolution", "8"], "--resolution: networks of 'mnasnet' cannot be built for it (stage"),
        (["train", "efficientdet_d0", "--data", "digits", "--out", "x"], "head: block: must be a classifier: '"),
        (["search", "--space", "detector", "--target-latency", "9ms"], "head: block: must be a classifier: '"),
        (["profile", "--resolution", "96px"], "--resolution: must be auto, or whole numbers of pixels from 1 to 4096"),
        (["profile", "--resolution", "96", "--bundle", "x"], "--resolution: cannot be combined with --bundle"),
        (["show", "mnasnet", "--svg", "x.svg"], "--svg: applies to networks only, and 'mnasnet'"),
        (["show", "mobilenet_v2_1.0", "--resolution", "8"], "leaves no pixels"),
        (["profile", "--space", "mnasnet", "--threads", "0"], "--threads: must be at least 1: 0"),
        (["export", "mnasnet"], "has 49 choices"),
        (["serach"], "unknown command 'serach'; did you mean 'search'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert message in refused(capsys, *argv)
    assert list(Path.cwd().iterdir()) == []


def test_a_target_below_the_fastest_is_refused_with_the_fastest(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = search_args(tiny_space, tmp_path / "a", "--target-latency", "1us")
    line = refused(capsys, *args)
    assert "--target-latency: the fastest network of 'tiny' takes 0.0" in line
    assert "out of reach: '0.001 ms'" in line
    assert not (tmp_path / "a").exists()


def test_a_proxy_too_small_for_the_strides_is_refused(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *search_args(tiny_space, tmp_path / "a", "--proxy-resolution", "1"))
    assert "a stride of 2 leaves no pixels of 1x1" in line
    assert not (tmp_path / "a").exists()


def test_a_run_folder_of_another_experiment_is_refused(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, *search_args(tiny_space, tmp_path / "a", "--trials", "1"))
    line = refused(capsys, *search_args(tiny_space, tmp_path / "a", "--seed", "2"))
    assert "holds another experiment: seed is 1 there and 2 now" in line


def phone_table(space: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A table of the space with 10 classes whose header is of another device."""
    table = folder / "phone.jsonl"
    flags = ["--runtime", "null", "--classes", "10", "--table", str(table)]
    run_json(capsys, "profile", "--space", str(space), *flags)
    text = table.read_text().split("\n", 1)
    header = json.loads(text[0])
    header["device"]["processor"] = "Kirin 9000"
    header["threads"] = 4
    table.write_text(json.dumps(header) + "\n" + text[1])
    return table


def test_a_table_of_another_device_needs_any_device(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = phone_table(tiny_space, tmp_path, capsys)
    line = refused(capsys, *search_args(tiny_space, tmp_path / "a", "--table", str(table)))
    assert "Kirin 9000" in line
    assert "threads is 4 in the table and 1 here" in line
    assert "--any-device" in line
    args = search_args(
        tiny_space, tmp_path / "b", "--trials", "1", "--table", str(table), "--any-device", "--any-device"
    )
    assert main([*args, "--json"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_a_table_of_another_device_that_does_not_cover_the_space_is_refused(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = phone_table(tiny_space, tmp_path, capsys)
    tiny_space.write_text(tiny_space.read_text().replace("out_channels: 24", "out_channels: 28"))
    line = refused(capsys, *search_args(tiny_space, tmp_path / "a", "--table", str(table), "--any-device"))
    assert "is not covered; nearest is" in line


def test_a_given_table_of_this_device_is_completed(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.jsonl"
    run_json(capsys, "profile", "--space", str(tiny_space), "--runtime", "null", "--table", str(table))
    before = len(table.read_text().splitlines())
    run_json(capsys, *search_args(tiny_space, tmp_path / "a", "--trials", "1", "--table", str(table)))
    assert len(table.read_text().splitlines()) > before


@pytest.mark.parametrize("broken", [False, True], ids=["one class", "a broken image"])
def test_an_image_folder_that_cannot_be_used(
    broken: bool, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog") if broken else ("cat",):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / "train" / name / f"{index}.png")
    if broken:
        (tmp_path / "pets" / "train" / "cat" / "3.png").write_bytes(b"not a picture")
    line = refused(capsys, *search_args(tiny_space, tmp_path / "a", "--data", str(tmp_path / "pets")))
    assert ("cat/3.png: not a readable image" if broken else "found only 'cat'") in line
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("trails: 3", "unknown setting 'trails'; did you mean 'trials'"), ("trials: three", "trials must be of type int"),
     ("[1, 2]", "an experiment is a mapping"), ("trials: true", "trials must be of type int")],
)  # fmt: skip
def test_a_wrong_experiment_file_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    line = refused(capsys, "search", str(path))
    assert message in line
    assert "x.yaml" in line


def test_a_profile_tells_its_certificate_and_columns(tiny_space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["profile", "--space", str(tiny_space), "--runtime", "null", "--energy"]
    result = run_json(capsys, *args)
    certificate = result["certificate"]
    names = {"networks", "mean_error", "worst_error", "within_5", "within_10", "spearman", "repeatability"}
    assert names <= set(certificate)
    assert certificate["networks"] == 4
    assert 0 <= certificate["mean_error"] <= certificate["worst_error"] < 0.2
    assert 0 <= certificate["within_5"] <= certificate["within_10"] <= 1
    assert result["columns"]["size_bytes"] > result["layers"]
    assert result["columns"].get("memory_bytes", 4) == 4
    assert main([*args, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy mean error" in printed
    assert "size_bytes of" in printed


def test_verify_says_whether_a_table_holds(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.jsonl"
    run_json(capsys, "profile", "--space", str(tiny_space), "--runtime", "null", "--table", str(table))
    check = ["profile", "--verify", str(table), "--space", str(tiny_space)]
    result = run_json(capsys, *check)
    assert result["holds"] is True
    assert result["factor"] == pytest.approx(1.0, abs=0.05)
    slowed = [json.loads(line) for line in table.read_text().splitlines()]
    for row in slowed:
        if "calibration" in row:
            row["calibration"]["scale"] *= 1.4
    table.write_text("".join(json.dumps(row) + "\n" for row in slowed))
    assert main([*check, "--quiet"]) == 1
    printed = capsys.readouterr().out
    assert "factor   0.6" in printed
    assert "the ranking still holds, but" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--verify", "nowhere.jsonl"], "nowhere.jsonl: no such latency table"),
        (["--verify", "pixel1"], "is a published table"),
        (["--verify", "pixel1", "--runtime", "torch"], "--runtime: cannot be combined with --verify"),
        (["--verify", "x", "--bundle", "y"], "cannot be combined with --"),
        (["--import", "x", "--energy"], "--energy: cannot be combined with --import"),
    ],
)
def test_flags_of_profile_that_do_not_fit(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "profile", *flags)


def test_a_table_that_predicts_badly_is_warned_of(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.jsonl"
    flags = ["--runtime", "null", "--classes", "10", "--table", str(table)]
    run_json(capsys, "profile", "--space", str(tiny_space), *flags)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[-1]["certificate"]["mean_error"] = 0.07
    rows[0]["runtime_version"] = "0"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*search_args(tiny_space, tmp_path / "a", "--trials", "1", "--table", str(table))]) == 0
    captured = capsys.readouterr()
    assert "runtime_version is '0' in the table and '1' here: profile again, or verify the table" in captured.err
    assert "predicts badly: mean error 7.0%" in captured.err
    card = json.loads((tmp_path / "a" / "model" / "card.json").read_text())
    assert card["size_bytes"] > 0
    assert json.loads((tmp_path / "a" / "result.json").read_text())["certificate"]["mean_error"] == 0.07


def test_the_finalists_of_another_machines_table_are_not_measured_here(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = phone_table(tiny_space, tmp_path, capsys)
    args = search_args(tiny_space, tmp_path / "b", "--trials", "1", "--table", str(table), "--any-device")
    result = run_json(capsys, *args)
    assert result["holds_target"] is None
    assert result["best"]["latency_ms"]["measured"] is None
    assert "Kirin 9000; not measured, the device is not available" in result["latency_basis"]
