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
from nas.networks.deployment import deploy
from nas.networks.network import make_block, traced
from nas.spaces.automaton import reachable
from nas.spaces.yaml_format import parse_space

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXT = "\n".join([README, *PAGES.values()])
CONSOLE = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
COMMANDS = [
    *re.findall(r"`(nas [a-z][^`]*)`", TEXT),
    *re.findall(r"bin/(nas [a-z][^\n&]*)", README),
    *(line.partition("#")[0] for line in CONSOLE if line.startswith("nas ")),
]
MOST_TERMS = 30


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_documents_parse(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word not in ("...", "--help", "--help-all")]
    _, unknown = make_parser().parse_known_args(words)
    assert not unknown


def test_the_readme_has_commands_and_two_set_ups() -> None:
    assert len(COMMANDS) >= 40
    assert "pip install . && .venv/bin/nas search --target-latency 20ms" in README
    assert "pip install -e '.[test]' && .venv/bin/python -m pytest" in README


def test_the_python_of_the_readme_runs() -> None:
    (code,) = snippets(README, "python")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("number", [0, 1])
def test_the_spaces_of_the_documents_can_be_searched(number: int) -> None:
    text = snippets(PAGES["search-space.md"], "yaml")[number]
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


def test_every_link_between_the_documents_leads_to_a_file() -> None:
    for folder, text in [(ROOT, README), (ROOT, CONTRIBUTING), *((ROOT / "docs", page) for page in PAGES.values())]:
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target


def test_every_path_in_the_documents_exists() -> None:
    for path in re.findall(r"`((?:nas|benchmarks|experiments|tests|search_spaces)/[\w./]+\w)`", TEXT + CONTRIBUTING):
        assert (ROOT / path).exists(), path


def test_the_glossary_is_short_and_sorted() -> None:
    terms = re.findall(r"^\| ([^|]+) \|", PAGES["glossary.md"], re.MULTILINE)[1:]
    assert len(terms) <= MOST_TERMS
    assert terms == sorted(terms, key=str.lower)
