"""YAML files with anchors, merge keys and a place for anchors; JSON files in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas.cli.main import main
from nas.errors import SpaceError
from nas.searching.settings import read_settings
from nas.spaces.yaml_files import read_yaml
from nas.spaces.yaml_format import load_architecture, load_space, shipped_files
from nas.training.job import read_architecture

HEAD = "head: {block: classifier, num_classes: 10}\n"
PLAIN = (
    "resolution: 32\nstages:\n"
    "  - {block: conv, out_channels: 8, stride: 2, kernel_size: 3}\n"
    "  - {block: mbconv, out_channels: [8, 16], kernel_size: [3, 5], expand_ratio: 3, stride: 2}\n"
    "  - {block: mbconv, out_channels: [24, 32], kernel_size: [3, 5], expand_ratio: 6, stride: 2}\n"
) + HEAD
MERGED = (
    "x-defaults:\n  down: &down {stride: 2}\n  mb: &mb {block: mbconv, kernel_size: [3, 5], expand_ratio: 3}\n"
    "resolution: 32\nstages:\n"
    "  - {<<: *down, block: conv, out_channels: 8, kernel_size: 3}\n"
    "  - &first\n    <<: [*down, *mb]\n    out_channels: [8, 16]\n"
    "  - {<<: *first, out_channels: [24, 32], expand_ratio: 6}\n"
) + HEAD
NETWORK = "resolution: 32\nstages: [{block: conv, out_channels: 8, stride: 2}]\n" + HEAD


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_space_with_merge_keys_is_the_space_without_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    merged = load_space(write(tmp_path / "own.yaml", MERGED))
    plain = load_space(write(tmp_path / "sub" / "own.yaml", PLAIN))
    assert merged.choices == plain.choices
    first = {key: values[-1] for key, values in plain.choices.items()}
    assert merged.decode(first) == plain.decode(first)


def test_an_experiment_and_a_network_may_hold_anchors(tmp_path: Path) -> None:
    text = "x-base: &base {trials: 3, target_latency: 5ms}\n<<: *base\ntrials: 4\n"
    assert read_settings(write(tmp_path / "e.yaml", text)) == {"target_latency": "5ms", "trials": 4}
    arch = load_architecture(write(tmp_path / "n.yaml", "x-a: &a {out_channels: 8}\n" + NETWORK.replace(
        "out_channels: 8", "<<: *a")))  # fmt: skip
    assert arch == load_architecture(write(tmp_path / "m.yaml", NETWORK))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: 1\na: 2\n", "the key 'a' appears twice"),
        ("x: &x {a: 1}\n<<: *x\n<<: *x\n", "the key '<<' appears twice"),
        ("a: &a {b: *a}\n", "an alias contains itself"),
        ("a: &a\n  <<: *a\n", "an alias contains itself"),
        ("a: &a [*a]\n", "an alias contains itself"),
        ("a: &a {b: 1, b: 2}\nc: {<<: *a}\n", "the key 'b' appears twice"),
        ("a: &a 3\nb: {<<: *a}\n", "expected a mapping or list of mappings for merging"),
        ("a: &a [3]\nb: {<<: *a}\n", "expected a mapping for merging"),
        ("b: {<<: *none}\n", "found undefined alias 'none'"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
)
def test_a_broken_file_is_refused(text: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as failure:
        read_yaml(Path(write(tmp_path / "a.yaml", text)))
    assert rule in str(failure.value)
    assert "\n" not in str(failure.value)
    assert str(tmp_path / "a.yaml") in failure.value.where


@pytest.mark.parametrize("merges", [False, True])
def test_aliases_that_expand_without_limit_are_refused(merges: bool, tmp_path: Path) -> None:
    lines = ["a0: &a0 {k: 1}" if merges else "a0: &a0 [k, k, k]"]
    for level in range(1, 40):
        many = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{many}]}}" if merges else f"a{level}: &a{level} [{many}]")
    with pytest.raises(SpaceError, match="values after its aliases are expanded"):
        read_yaml(Path(write(tmp_path / "laughs.yaml", "\n".join(lines))))


@pytest.mark.parametrize(
    "text",
    [
        "a: {b?c: 1}",
        "a: [1",
        "a: 1\n b: 2",
        "a: {b: *none}",
        "a: 1\na: 2",
        "a: &a [*a]",
        'a: "\\q"',
        "\t- a",
        "a: 2001-13-40",
        "a: @b",
    ],
)
def test_errors_do_not_depend_on_whether_libyaml_is_there(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = Path(write(tmp_path / "a.yaml", text)), []
    for _ in range(2):
        with pytest.raises(SpaceError) as failure:
            read_yaml(path)
        found.append((str(failure.value), failure.value.where, failure.value.rule))
        monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    assert found[0] == found[1]


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="compares libyaml with the loader in Python")
def test_shipped_files_hold_the_same_for_both_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = [read_yaml(path) for path in shipped_files()]
    monkeypatch.delattr("yaml.CSafeLoader")
    assert fast == [read_yaml(path) for path in shipped_files()]


@pytest.mark.parametrize("text", ["[" * 50_000, "- " * 50_000, "{a: " * 1_900 + "1" + "}" * 1_900])
def test_values_that_are_nested_too_deeply_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError):
        read_yaml(Path(write(tmp_path / "a.yaml", text)))


def test_an_override_of_a_merged_key_is_no_duplicate(tmp_path: Path) -> None:
    text = "a: &a {k: 1, m: 2}\nb: &b {<<: *a, k: 3}\nc: {<<: [*b, {m: 5, n: 6}], k: 4}\n"
    assert read_yaml(Path(write(tmp_path / "a.yaml", text)))["c"] == {"k": 4, "m": 2, "n": 6}


@given(st.dictionaries(st.sampled_from("abcd"), st.integers()), st.dictionaries(st.sampled_from("abcd"), st.integers()))
def test_own_keys_win_over_merged_ones(base: dict[str, int], own: dict[str, int]) -> None:
    import tempfile

    text = f"x-base: &base {json.dumps(base)}\nvalue: " + json.dumps({"<<": 0, **own}).replace('"<<": 0', "<<: *base")
    with tempfile.TemporaryDirectory() as folder:
        assert read_yaml(Path(write(Path(folder) / "a.yaml", text))) == {"value": {**base, **own}}


def test_only_top_level_keys_with_the_prefix_are_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "own.yaml", "y-base: 1\n" + PLAIN)
    assert main(["show", path]) == 2
    assert "unknown key 'y-base'" in capsys.readouterr().err
    path = write(tmp_path / "own.yaml", PLAIN.replace("kernel_size: 3", "x-kernel: 3"))
    assert main(["show", path]) == 2
    assert "has no keyword 'x-kernel'" in capsys.readouterr().err


def as_json(text: str) -> str:
    return json.dumps(yaml.safe_load(text), indent="\t")


def test_spaces_networks_and_experiments_may_be_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sub").mkdir()
    space = write(tmp_path / "own.json", as_json(PLAIN))
    assert load_space(space).digest == load_space(write(tmp_path / "own.yaml", PLAIN)).digest
    assert load_space(write(tmp_path / "sub" / "own.yml", as_json(PLAIN))).digest == load_space(space).digest
    network = write(tmp_path / "net.json", as_json(NETWORK))
    arch: Any = load_architecture(network)
    assert read_architecture(network) == arch
    assert read_architecture(write(tmp_path / "arch.json", json.dumps(arch.to_dict()))) == arch
    assert read_settings(write(tmp_path / "e.json", '{"target_latency": "5ms", "trials": 2}'))["trials"] == 2
    assert main(["show", network]) == 0
    assert "parameters" in capsys.readouterr().out
