"""A run that continues under changed code is refused: the source files of plug-ins are a part of its identity."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.evaluators import find_evaluator
from nas.evaluators.base import EvaluatorContext
from nas.spaces.yaml_format import load_space
from nas.study.trial_store import find
from nas.training.tasks.classification import Classification
from nas.utils import registry
from nas.utils.source_code import source_digests

NUMBER = itertools.count()
EVALUATOR = "from NAME.helpers import scale\n\ndef accuracy(arch, seed):\n    return scale(len(list(arch.blocks())))\n"
HELPERS = "import json\n\ndef scale(count):\n    return count / 100\n"
CONTROLLER = (
    "from nas.controllers.random import RandomController\n\nclass Own(RandomController):\n"
    "    '''Propose random candidates.'''\n"
)
BLOCK = (
    "from torch import nn\n\nclass Own(nn.Conv2d):\n"
    "    '''A 1x1 convolution.'''\n"
    "    def __init__(self, in_channels: int, *, out_channels: int, stride: int = 1):\n"
    "        super().__init__(in_channels, out_channels, 1, stride)\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in the current directory, with a name that is new in each test."""
    folder = tmp_path / f"changing_{next(NUMBER)}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "evaluators.py").write_text(EVALUATOR.replace("NAME", folder.name))
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "unused.py").write_text("")
    (folder / "controllers.py").write_text(CONTROLLER)
    (folder / "blocks.py").write_text(BLOCK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def install(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    """Register the package's controller and block as an installed package does."""
    points = {
        "nas.controllers": {"own": EntryPoint("own", f"{package.name}.controllers:Own", "nas.controllers")},
        "nas.blocks": {"own": EntryPoint("own", f"{package.name}.blocks:Own", "nas.blocks")},
    }
    monkeypatch.setattr(registry, "_plugins", lambda group: points.get(group, {}))


def search(space: Path, *more: str) -> int:
    common = ["search", "--space", str(space), "--run", "run", "--target-latency", "1ms", "--runtime", "null"]
    return main([*common, "--controller", "random", "--quiet", *more])


def stored_settings() -> dict[str, Any]:
    settings: dict[str, Any] = find(Path("run")).attributes()["settings"]
    return settings


def forget(key: str) -> None:
    """Remove a setting from the journal, as if an older version had written it."""
    lines = []
    for line in Path("run/journal.log").read_text().splitlines():
        entry = json.loads(line)
        entry.get("user_attr", {}).get("settings", {}).pop(key, None)
        lines.append(json.dumps(entry) + "\n")
    Path("run/journal.log").write_text("".join(lines))


def test_the_files_of_a_module_are_those_that_it_imports(package: Path) -> None:
    name = package.name
    found = source_digests(f"{name}.evaluators")
    assert list(found) == [f"{name}/__init__.py", f"{name}/evaluators.py", f"{name}/helpers.py"]
    (package / "helpers.py").write_text(HELPERS + "# a comment\n")
    assert {key for key, digest in source_digests(f"{name}.evaluators").items() if digest != found[key]} == {
        f"{name}/helpers.py"
    }


@pytest.mark.parametrize(
    "line",
    ["from . import extra", "from .extra import x", "from NAME import extra", "import NAME.extra as e",
     "def f():\n    from NAME.extra import x"],
)  # fmt: skip
def test_every_kind_of_import_is_followed(line: str, package: Path) -> None:
    (package / "extra.py").write_text("x = 1\n")
    (package / "first.py").write_text(line.replace("NAME", package.name) + "\nimport torch, os, nas.errors\n")
    assert f"{package.name}/extra.py" in source_digests(f"{package.name}.first")
    assert all(file.startswith(package.name) for file in source_digests(f"{package.name}.first"))


def test_modules_of_the_same_folder_and_broken_ones_are_followed(package: Path) -> None:
    beside = package.with_name(f"{package.name}_beside.py")
    beside.write_text(f"import {package.name}.broken\n")
    (package / "broken.py").write_text("def (\n")
    assert set(source_digests(beside.stem)) == {
        beside.name, f"{package.name}/__init__.py", f"{package.name}/broken.py"
    }  # fmt: skip
    assert source_digests("no_such_module", "json", "nas.no_such") == {}


def test_a_search_under_a_changed_evaluator_is_refused(
    package: Path, tiny_space: Path, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = ["--evaluator", f"{package.name}.evaluators:accuracy", "--trials"]
    assert search(tiny_space, *evaluator, "2") == 0
    assert set(stored_settings()["evaluator_source"]) == {
        f"{package.name}/{name}.py" for name in ("__init__", "evaluators", "helpers")
    }
    (package / "helpers.py").write_text(HELPERS.replace("100", "200"))
    assert search(tiny_space, *evaluator, "3") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith(
        f"run: holds another experiment: evaluator source: {package.name}/helpers.py has changed since this run began; "
        "give another --run"
    )
    assert search(tiny_space, *evaluator, "3", "--retry-failed") == 0
    assert f"{package.name}/helpers.py has changed since this run began; its earlier trials stay" in (
        capsys.readouterr().err
    )
    (package / "helpers.py").write_text(HELPERS)
    assert search(tiny_space, *evaluator, "3") == 0
    (package / "evaluators.py").write_text("from . import unused\n" + EVALUATOR.replace("NAME", package.name))
    assert search(tiny_space, *evaluator, "4") == 2
    assert f"{package.name}/evaluators.py has changed" in capsys.readouterr().err


def test_a_run_of_an_older_version_continues_and_gets_the_digests(
    package: Path, tiny_space: Path, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = ["--evaluator", f"{package.name}.evaluators:accuracy", "--trials"]
    assert search(tiny_space, *evaluator, "2") == 0
    forget("evaluator_source")
    assert "evaluator_source" not in stored_settings()
    (package / "helpers.py").write_text(HELPERS.replace("100", "200"))
    assert search(tiny_space, *evaluator, "3") == 0
    assert "evaluator_source" in stored_settings()
    (package / "helpers.py").write_text(HELPERS)
    assert search(tiny_space, *evaluator, "4") == 2
    assert "evaluator source: " in capsys.readouterr().err


def test_a_changed_controller_and_a_changed_block_are_refused(
    package: Path, tmp_path: Path, without_winner: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    install(monkeypatch, package)
    space = tmp_path / "own.yaml"
    space.write_text(
        "resolution: 8\nstages: [{block: own, out_channels: [4, 8, 12], stride: 2}]\n"
        "head: {block: classifier, num_classes: 10}\n"
    )
    evaluator = ["--evaluator", f"{package.name}.evaluators:accuracy", "--controller", "own", "--trials"]
    assert search(space, *evaluator, "1") == 0
    for kind, text in (("controllers", CONTROLLER), ("blocks", BLOCK)):
        (package / f"{kind}.py").write_text(text + "# another version\n")
        assert search(space, *evaluator, "2") == 2
        said = capsys.readouterr().err
        assert f"{kind[:-1]} source: {package.name}/{kind}.py has changed since this run began" in said
        (package / f"{kind}.py").write_text(text)
    assert search(space, *evaluator, "2") == 0


def test_the_record_of_an_evaluator_contains_its_files(package: Path, tiny_space: Path, tmp_path: Path) -> None:
    task = Classification.load("digits")
    context = EvaluatorContext(task, load_space(str(tiny_space)), tmp_path)
    settings = find_evaluator(f"{package.name}.evaluators:accuracy")(context).settings
    assert settings["source_files"] == source_digests(f"{package.name}.evaluators")
