"""A latency table of another device, runtime or source is never replaced without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.latency.catalog import device_path, find_table, imported_path
from nas.latency.profiler import default_table_path, table_header
from nas.latency.table import LatencyTable

SPACE = (
    "resolution: 8\nstages: [{block: conv, out_channels: 4, stride: 2, kernel_size: [1, 3]}]\n"
    "head: {block: classifier, num_classes: 10}\n"
)


@pytest.fixture
def profile(tmp_path: Path) -> list[str]:
    (tmp_path / "own.yaml").write_text(SPACE)
    return ["profile", "--space", str(tmp_path / "own.yaml"), "--runtime", "null", "--quiet"]


def change_header(path: Path, **changes: Any) -> bytes:
    """Make a table one of another device, and return its bytes."""
    header, *rows = path.read_text().split("\n")
    path.write_text("\n".join([json.dumps({**json.loads(header), **changes}), *rows]))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", {"processor": "another", "cores": 1}),
        ("runtime", "torch"),
        ("runtime_version", "0.0"),
        ("threads", 3),
        ("host", "board"),
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_a_table_that_differs_is_kept(
    key: str, value: object, given: bool, profile: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.jsonl" if given else default_table_path(table_header("null", 1))
    args = [*profile, *(["--table", str(path)] if given else [])]
    assert main(args) == 0
    before = change_header(path, **{key: value})
    capsys.readouterr()
    assert main(args) == 2
    said = capsys.readouterr().err
    assert f"{path}: {key} is " in said
    assert "give another --table or --name, or --replace to discard it" in said
    assert said.count("\n") == 1
    assert path.read_bytes() == before
    assert main([*args, "--replace"]) == 0
    assert not LatencyTable.open(path).differences(table_header("null", 1))


def test_the_same_device_continues_its_table_and_replace_begins_anew(profile: list[str], tmp_path: Path) -> None:
    args = [*profile, "--table", str(tmp_path / "t.jsonl")]
    assert main(args) == 0
    before = (tmp_path / "t.jsonl").read_bytes()
    assert main(args) == 0
    assert (tmp_path / "t.jsonl").read_bytes() == before
    assert main([*args, "--replace"]) == 0
    assert json.loads((tmp_path / "t.jsonl").read_bytes().split(b"\n")[0]).keys() == json.loads(
        before.split(b"\n")[0]
    ).keys()  # fmt: skip
    (tmp_path / "notes.txt").write_text("mine\n")
    assert main([*profile, "--table", str(tmp_path / "notes.txt"), "--replace"]) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_two_boards_with_one_processor_have_a_table_each_by_name(
    profile: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kitchen", "garage"):
        assert main([*profile, "--name", name]) == 0
        assert LatencyTable.open(device_path(name)).header["name"] == name
    assert not default_table_path(table_header("null", 1)).exists()
    capsys.readouterr()
    assert main([*profile, "--name", "garage", "--threads", "2"]) == 2
    assert "threads is 1 in the table and 2 here" in capsys.readouterr().err
    assert main([*profile, "--name", "garage", "--table", str(device_path("kitchen"))]) == 2
    assert "name is 'kitchen' in the table and 'garage' here" in capsys.readouterr().err
    assert main(["list", "tables", "--json"]) == 0
    assert {"kitchen", "garage"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert main(["profile", "--verify", "kitchen", "--space", profile[2], "--quiet"]) in (0, 1)


def test_replace_never_discards_a_published_table(profile: list[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(find_table("pixel1").read_bytes())
    assert main([*profile, "--table", str(copy), "--replace"]) == 2
    assert copy.read_bytes() == find_table("pixel1").read_bytes()


@pytest.mark.parametrize(
    ("name", "rule"), [("pixel1", "is the name of a shipped table"), ("a/b", "must consist of"), ("", "must consist")]
)
def test_a_name_that_cannot_be_is_refused(
    name: str, rule: str, profile: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*profile, "--name", name]) == 2
    assert f"--name: {rule}" in capsys.readouterr().err


def single_path_file(path: Path, first: float) -> str:
    times = {str(layer): {str(choice): first + layer + choice / 10 for choice in range(4)} for layer in range(22)}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(times))
    return str(path)


def test_an_import_keeps_another_table_of_the_same_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (single_path_file(tmp_path / name / "latency.json", first) for name, first in (("a", 1.0), ("b", 2.0)))
    assert main(["profile", "--import", one, "--quiet"]) == 0
    assert main(["profile", "--import", one, "--quiet"]) == 0
    before = imported_path("latency").read_bytes()
    capsys.readouterr()
    assert main(["profile", "--import", other, "--quiet"]) == 2
    assert "holds another table of an unknown source; give another --table" in capsys.readouterr().err
    assert main(["profile", "--import", other, "--name", "phone", "--quiet"]) == 0
    assert imported_path("phone").is_file()
    assert imported_path("latency").read_bytes() == before
    assert main(["profile", "--import", other, "--replace", "--quiet"]) == 0
    assert imported_path("latency").read_bytes() != before
