"""Tables by name, and searches for a device that is not available, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.cli.main import main
from nas.errors import TableError
from nas.latency.catalog import find_table, imported_path, named_tables
from nas.latency.table import LatencyTable

QUICK = ["--trials", "2", "--proxy-epochs", "1", "--proxy-images", "64", "--final-epochs", "1", "--final-images", "16"]


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def single_path_file(folder: Path) -> Path:
    path = folder / "my_board.json"
    times = {str(layer): {str(choice): 1.0 + layer + choice / 10 for choice in range(4)} for layer in range(22)}
    path.write_text(json.dumps(times))
    return path


def image_folder(folder: Path) -> Path:
    """Create twelve small images of two classes for each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("dark", "light"):
            (folder / split / label).mkdir(parents=True)
            for index in range(12):
                pixels = rng.integers(0, 128, (16, 16, 3)) + (128 if label == "light" else 0)
                Image.fromarray(pixels.astype("uint8")).save(folder / split / label / f"{index}.png")
    return folder


def test_trials_of_two_tables_do_not_mix(tmp_path: Path, tiny_space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, grown = (tmp_path / f"{name}.jsonl" for name in ("one", "other", "grown"))
    assert run_json(capsys, "profile", "--space", str(tiny_space), "--runtime", "null", "--table", str(one))
    lines = one.read_text().splitlines()
    slower = json.loads(lines[1])
    slower["ms"] = [2 * ms for ms in slower["ms"]]
    other.write_text("\n".join([lines[0], json.dumps(slower), *lines[2:]]) + "\n")
    run = tmp_path / "run"
    search = ["search", "--space", str(tiny_space), "--runtime", "null", "--target-latency", "1ms", "--run", str(run),
              *QUICK]  # fmt: skip
    run_json(capsys, *search, "--table", str(one))
    for more in ([], ["--trials", "4"]):  # a run that is finished is not taken for one of another table either
        said = refused(capsys, *search, "--table", str(other), *more)
        assert "another experiment: table_digest is" in said
    grown.write_text(one.read_text())
    small = tmp_path / "small.yaml"
    small.write_text("resolution: 64\nstages: [{block: conv, out_channels: 24, stride: 2, kernel_size: [3, 5]}]\n"
                     "head: {block: classifier}\n")  # fmt: skip
    assert run_json(capsys, "profile", "--space", str(small), "--runtime", "null", "--table", str(grown))
    again = run_json(capsys, *search, "--table", str(grown), "--trials", "3")
    assert again["trials"] == 3


def test_names_find_shipped_and_imported_tables(tmp_path: Path) -> None:
    assert {"pixel1", "rpi4"} <= set(named_tables())
    assert find_table("pixel1").name == "pixel1.jsonl"
    imported = imported_path("mine")
    imported.parent.mkdir(parents=True)
    imported.write_text("{}")
    assert find_table("mine") == imported
    with pytest.raises(TableError, match=r"unknown latency table: 'pixel2'; did you mean 'pixel1'\?"):
        find_table("pixel2")
    for path in (tmp_path / "none.jsonl", Path("some") / "where"):
        with pytest.raises(TableError, match="no such latency table"):
            find_table(str(path))


def test_an_import_lies_in_the_cache_and_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "profile", "--import", str(single_path_file(tmp_path)))
    assert result["table"] == str(imported_path("my_board"))
    assert (result["rows"], result["space"]) == (42, "single_path_nas")
    assert result["covered"] == result["layers"] == 44
    assert result["notes"] == ["stem and head are not in the table and count 0 ms"]
    listed = {row["name"]: row for row in run_json(capsys, "list", "tables")}
    assert {"pixel1", "rpi4", "my_board"} <= set(listed)
    assert listed["my_board"]["device"] == "unknown (my_board)"
    pixel = listed["pixel1"]
    assert (pixel["device"], pixel["runtime"]) == ("Google Pixel 1 (Snapdragon 821)", "tflite")
    assert (pixel["space"], pixel["rows"]) == ("single_path_nas", 43)
    assert pixel["source"].startswith("https://github.com/enyac-group/single-path-nas@")
    assert main(["list", "tables"]) == 0
    assert "rpi4" in capsys.readouterr().out


def test_an_import_again_replaces_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    for _ in range(2):
        assert main(["profile", "--import", str(single_path_file(tmp_path)), "--table", str(out), "--quiet"]) == 0
        assert "covers   44 of 44 layers of 'single_path_nas'" in capsys.readouterr().out
    assert len(LatencyTable.open(out).rows) == 42


def test_a_broken_table_in_the_cache_is_said_and_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    broken = imported_path("broken")
    broken.parent.mkdir(parents=True)
    broken.write_text("not a table\n")
    assert main(["list", "tables", "--json"]) == 0
    captured = capsys.readouterr()
    assert {row["name"] for row in json.loads(captured.out)} == {"pixel1", "rpi4"}
    assert f"warning: {broken}, line 1: not a latency table" in captured.err


def test_wrong_imports_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, out = single_path_file(tmp_path), tmp_path / "out.jsonl"
    bad = tmp_path / "bad.json"
    bad.write_text(good.read_text()[:-9])
    assert "bad.json: invalid JSON, the file may be cut off" in refused(
        capsys, "profile", "--import", str(bad), "--table", str(out)
    )
    assert "is one of the files to import" in refused(capsys, "profile", "--import", str(good), "--table", str(good))
    assert "needs a folder that --bundle wrote" in refused(capsys, "profile", "--import", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"my_board.json", "bad.json"}


def test_a_search_with_a_table_of_a_board_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    argv = ["search", "--table", "rpi4", "--target-latency", "150ms", "--run", str(run), *QUICK]
    result = run_json(capsys, *argv, "--proxy-resolution", "8")
    basis = "predicted by rpi4, Raspberry Pi 4 Model B 4GB; not measured, the device is not available"
    assert (result["holds_target"], result["latency_basis"]) == (None, basis)
    best = result["best"]
    assert best["latency_ms"]["measured"] is None
    assert result["predicted_to_hold_target"] is (best["latency_ms"]["predicted"] <= 150)
    assert all(finalist["measured_ms"] is None for finalist in result["finalists"])
    assert result["settings"]["space"] == "fbnet"
    assert result["device"] == {"processor": "Raspberry Pi 4 Model B 4GB"}
    card = json.loads((Path(best["model"]) / "card.json").read_text())
    assert (card["holds_target"], card["latency_basis"], card["measured_on"]) == (None, basis, None)
    assert card["latency_ms"]["measured"] is None
    assert card["predicted_by"]["table"] == "rpi4"
    assert (run / "search.png").read_bytes().startswith(b"\x89PNG")
    assert main([*argv, "--proxy-resolution", "8", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert basis in printed
    assert "150 ms by prediction" in printed


def test_a_search_for_a_pixel_1_at_80_ms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = image_folder(tmp_path / "images")
    argv = ["search", "--table", "pixel1", "--target-latency", "80ms", "--data", str(data), *QUICK]
    result = run_json(capsys, *argv, "--run", str(tmp_path / "run"))
    assert result["settings"]["space"] == "single_path_nas"
    span = result["settings"]["span_ms"]
    assert (span["fastest_ms"] < 40, span["slowest_ms"] > 120) == (True, True)
    assert result["best"]["latency_ms"]["measured"] is None
    other = ["--table", str(find_table("pixel1")), "--space", "single_path_nas", "--run", str(tmp_path / "run")]
    assert "another experiment" in refused(capsys, *argv, *other, "--seed", "1")


def test_a_table_that_does_not_cover_the_space_names_the_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", "--table", "pixel1", "--space", "proxylessnas", "--target-latency", "80ms"]
    line = refused(capsys, *argv, "--run", str(tmp_path / "run"))
    assert "pixel1.jsonl: " in line
    assert " is not covered; nearest is " in line
    assert not (tmp_path / "run").exists()
    assert "did you mean 'pixel1'?" in refused(capsys, "search", "--table", "pixel", "--target-latency", "80ms")
    assert "out of reach" in refused(capsys, "search", "--table", "pixel1", "--target-latency", "20ms")
    assert "Google Pixel 1" in refused(capsys, "search", "--table", "pixel1", "--target-latency", "20ms")


def test_a_shipped_table_is_never_measured_into(capsys: pytest.CaptureFixture[str]) -> None:
    before = find_table("pixel1").read_bytes()
    argv = ["profile", "--space", "single_path_nas", "--runtime", "null", "--table", str(find_table("pixel1"))]
    assert "give another --table" in refused(capsys, *argv)
    assert find_table("pixel1").read_bytes() == before


@pytest.mark.parametrize(("key", "value"), [("not_measured", 3), ("not_measured", [{"in": 3}]), ("notes", "words")])
def test_a_published_header_that_is_not_ours_is_named(
    key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = find_table("pixel1").read_text().splitlines(keepends=True)
    path = tmp_path / "changed.jsonl"
    path.write_text(json.dumps({**json.loads(header), "device": "a phone", key: value}) + "\n" + "".join(rows))
    line = refused(capsys, "search", "--table", str(path), "--target-latency", "80ms")
    assert f"changed.jsonl, line 1: {key}: must " in line


def test_an_experiment_file_may_name_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("table: pixel1\ntarget_latency: 15ms\n")
    assert "'single_path_nas'" in refused(capsys, "search", str(path))
