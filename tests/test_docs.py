"""The documents are executed: commands must parse, Python must run, YAML must load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from nas.cli.main import make_parser
from nas.networks.block_schema import block_spec
from nas.networks.blocks import BLOCKS
from nas.networks.network import deploy, make_block, traced
from nas.spaces.automaton import reachable
from nas.spaces.yaml_format import parse_space

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`(nas [a-z][^`]*)`", README) + re.findall(r"bin/(nas [a-z][^\n&]*)", README)


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_parse(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "..."]
    _, unknown = make_parser().parse_known_args(words)
    assert not unknown


def test_the_readme_has_commands_and_two_set_ups() -> None:
    assert len(COMMANDS) >= 5
    assert "pip install . && .venv/bin/nas search --target-latency 20ms" in README
    assert "pip install -e '.[test]' && .venv/bin/python -m pytest" in README


def test_the_python_of_the_readme_runs() -> None:
    (code,) = snippets(README, "python")
    exec(compile(code, "README.md", "exec"), {})


def test_the_space_of_the_readme_can_be_searched() -> None:
    (text,) = snippets(README, "yaml")
    space = parse_space("readme", yaml.safe_load(text), "README.md")
    assert space.size > 100
    assert reachable(space)


def test_the_block_of_the_contributing_guide_is_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = snippets(CONTRIBUTING, "python")
    scope: dict[str, object] = {"__name__": "bottleneck"}
    exec(compile(code, "bottleneck.py", "exec"), scope)
    monkeypatch.setitem(BLOCKS, "bottleneck", scope["Bottleneck"])
    spec = block_spec("bottleneck", {"out_channels": 64, "stride": 2})
    assert traced(spec, (16, 14, 14)).out_shape == (64, 7, 7)
    assert deploy(make_block(spec, (16,)))
