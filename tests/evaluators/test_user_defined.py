"""Evaluators that a user brings: by module and function, and as an entry point of an installed package."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.architecture import Architecture, BlockSpec
from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluators import epochs_of, find_evaluator
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.returned_values import to_accuracy
from nas.searching.context import make_early_stopping
from nas.searching.early_stopping import make_rungs
from nas.searching.settings import SearchSettings
from nas.spaces.yaml_format import parse_space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.utils import registry
from nas.utils.reporting import Reporter

pytestmark = pytest.mark.usefixtures("warm_cache")

DATA = {
    "resolution": 8,
    "stages": [{"block": "conv", "out_channels": 8}],
    "head": {"block": "classifier", "num_classes": 10},
}
ARCH = parse_space("small", DATA, "small.yaml").decode({})
MODULE = r"""
import numpy
import torch

NOT_CALLABLE = 3

def blocks(arch, seed):
    return len(list(arch.blocks())) / 10

def epochs(arch, seed):
    yield 0.25
    yield torch.tensor(0.5)
    yield numpy.float32(0.75)

def half(arch, seed):
    yield 0.5
    raise KeyError("stage\n9")

def breaks(arch, seed):
    return torch.ones(2) @ torch.ones(3)

def leaves(arch, seed):
    raise SystemExit(3)

def gives(arch, seed):
    return [1.7, float("nan"), "0.5", None, True, [], -0.1, {"accuracy": 1}, 1 + 0j][seed]

class Mine:
    def __init__(self, setup):
        self.setup = setup

    def evaluate(self, arch, seed):
        yield self.setup.seed / 100 + seed / 10

    @property
    def settings(self):
        return {"a": 1, "path": self.setup.folder}

class Rich:
    deterministic = 1

    def __init__(self, setup, times=1):
        self.setup, self.times = setup, times

    @staticmethod
    def epochs(setup):
        return [4, None, 0, "3", True][setup.seed]

    def evaluate(self, arch, seed):
        yield 0.25 * self.times

    def longer(self, times):
        return Rich(self.setup, times)

    def trained(self, arch):
        if self.times > 1:
            raise KeyError("weights")
        return torch.nn.ReLU() if arch.resolution == 8 else None

class Unmade:
    def __init__(self, setup):
        raise OSError("no weights")
"""
NUMBER = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current directory; its name is new in each test, since Python imports a name once."""
    name = f"own_evaluator_{next(NUMBER)}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


def setup_of(task: Classification, folder: Path) -> EvaluatorContext:
    return EvaluatorContext(
        task, parse_space("small", DATA, "small.yaml"), folder, seed=20, reporter=Reporter(quiet=True)
    )


def accuracies(name: str, task: Classification, folder: Path, seed: int = 0) -> list[float]:
    return list(find_evaluator(name)(setup_of(task, folder)).evaluate(ARCH, seed))


def test_functions_generators_and_classes(module: str, task: Classification, tmp_path: Path) -> None:
    assert accuracies(f"{module}:blocks", task, tmp_path) == [0.1]
    assert accuracies(f"{module}:epochs", task, tmp_path) == [0.25, 0.5, 0.75]
    assert accuracies(f"{module}:Mine", task, tmp_path, seed=3) == [0.5]
    evaluator = find_evaluator(f"{module}:Mine")(setup_of(task, tmp_path))
    settings = json.loads(json.dumps(evaluator.settings))
    assert settings["a"] == 1
    assert settings["evaluator"] == f"{module}:Mine"
    assert settings["file"] == str(tmp_path / f"{module}.py")


@pytest.mark.parametrize(
    ("seed", "value"),
    [(0, r"1.7; if it is a percentage, return 0.017"), (1, "nan"), (2, "'0.5'"), (3, "None"), (4, "True"),
     (6, "-0.1"), (8, r"\(1\+0j\)")],
)  # fmt: skip
def test_a_value_that_is_no_accuracy_is_named(
    seed: int, value: str, module: str, task: Classification, tmp_path: Path
) -> None:
    rule = f"an accuracy must be in \\[0, 1\\]: {value}$"
    with pytest.raises(TrainingError, match=f"^{module}:gives: {rule}"):
        accuracies(f"{module}:gives", task, tmp_path, seed)


def line_of(text: str) -> int:
    return 1 + MODULE.splitlines().index(text)


@pytest.mark.parametrize(
    ("function", "kind", "line"),
    [
        ("half", r"KeyError: 'stage\n9'", r'    raise KeyError("stage\n9")'),
        ("breaks", "RuntimeError: ", "    return torch.ones(2) @ torch.ones(3)"),
        ("leaves", "SystemExit: 3", "    raise SystemExit(3)"),
    ],
)
def test_what_is_raised_is_told_with_kind_message_and_place(
    function: str, kind: str, line: str, module: str, task: Classification, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as failure:
        accuracies(f"{module}:{function}", task, tmp_path)
    message = str(failure.value)
    assert message.startswith(f"{module}:{function}: {kind}")
    assert message.endswith(f"({tmp_path / module}.py:{line_of(line)})")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MODULE:bloks", "no such function in MODULE: 'bloks'; did you mean 'blocks'?"),
        ("MODULE:NOT_CALLABLE", "not a function but int in MODULE: 'NOT_CALLABLE'"),
        ("MODULE.sub:blocks", "no such module, because 'MODULE' is not a package: 'MODULE.sub'"),
        ("xMODULE:blocks", "no such module: 'xMODULE'; did you mean 'MODULE'?"),
        ("MODULE:", "must be package.module:function: 'MODULE:'"),
        ("broken:f", "cannot be imported (SyntaxError: "),
        ("raising:f", "cannot be imported (ZeroDivisionError: division by zero, FOLDER/raising.py:2): 'raising:f'"),
        ("importing:f", "imports 'no_such_package', which is not installed: 'importing:f'"),
        ("quite_another_name:f", "no such module, neither in FOLDER nor installed: 'quite_another_name'"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    name: str, message: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "raising.py").write_text("def f(arch, seed): return 0.5\n1 / 0\n")
    (tmp_path / "importing.py").write_text("import no_such_package\n")
    importlib.invalidate_caches()
    status = main(["search", "--target-latency", "20ms", "--evaluator", name.replace("MODULE", module)])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert f"--evaluator: {message}".replace("MODULE", module).replace("FOLDER", str(tmp_path)) in captured.err


def test_a_class_that_cannot_be_made_ends_the_command(module: str, task: Classification, tmp_path: Path) -> None:
    line = line_of('        raise OSError("no weights")')
    place = f"{tmp_path / module}.py:{line}"
    with pytest.raises(UsageError, match=f"OSError: no weights \\({place}\\)") as caught:
        find_evaluator(f"{module}:Unmade")(setup_of(task, tmp_path))
    assert (caught.value.key, caught.value.value) == ("evaluator", f"{module}:Unmade")


def test_optional_members_are_those_of_the_class(module: str, task: Classification, tmp_path: Path) -> None:
    name, setup = f"{module}:Rich", setup_of(task, tmp_path)
    rich: Any = find_evaluator(name)(setup)
    assert rich.deterministic is True
    assert list(rich.longer(2).evaluate(ARCH, 0)) == [0.5]
    with pytest.raises(TrainingError, match=f"{name}: an accuracy must be in"):
        list(rich.longer(5).evaluate(ARCH, 0))
    assert isinstance(rich.trained(ARCH), torch.nn.ReLU)
    with pytest.raises(UsageError, match=r"trained\(\) must return a torch module, not NoneType") as caught:
        rich.trained(ARCH.at(16))
    assert caught.value.value == name
    place = f"{tmp_path / module}.py:{line_of('            raise KeyError(' + chr(34) + 'weights' + chr(34) + ')')}"
    with pytest.raises(UsageError, match=rf"trained\(\) failed \(KeyError: 'weights' \({place}\)\)") as caught:
        rich.longer(2).trained(ARCH)
    assert caught.value.value == name
    for plain in ("Mine", "blocks"):
        made = find_evaluator(f"{module}:{plain}")(setup)
        assert not any(hasattr(made, member) for member in ("deterministic", "longer", "trained", "epochs"))
        assert epochs_of(f"{module}:{plain}", setup) is None


def test_epochs_of_a_class_are_asked_before_it_is_made(module: str, task: Classification, tmp_path: Path) -> None:
    name, setup = f"{module}:Rich", setup_of(task, tmp_path)
    assert epochs_of(name, replace(setup, seed=0)) == 4
    assert epochs_of(name, replace(setup, seed=1)) is None
    for seed, value in ((2, "0"), (3, "'3'"), (4, "True")):
        with pytest.raises(UsageError, match=rf"epochs\(\) must return a positive integer .*, not {value}: '{name}'"):
            epochs_of(name, replace(setup, seed=seed))
    with pytest.raises(UsageError, match=rf"epochs\(\) failed \(IndexError: .*{module}.py:.*: '{name}'"):
        epochs_of(name, replace(setup, seed=9))
    experiment = SearchSettings("1ms", evaluator=name, fidelity="halving", eta=2)
    space: Any = setup.space
    assert make_early_stopping(experiment, task, space) == make_rungs("halving", 2, 1, 4)


def test_an_entry_point_is_found_by_its_name(
    module: str, task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "blocks": EntryPoint("blocks", f"{module}:blocks", "nas.evaluators"),
        "gone": EntryPoint("gone", "no_such_module:f", "nas.evaluators"),
    }

    def plugins(group: str) -> dict[str, Any]:
        return points if group == "nas.evaluators" else {}

    monkeypatch.setattr(registry, "_plugins", plugins)
    assert accuracies("blocks", task, tmp_path) == [0.1]
    with pytest.raises(UsageError, match="unknown evaluator 'blokcs'; did you mean 'blocks'"):
        find_evaluator("blokcs")
    with pytest.raises(UsageError, match="--evaluator: ModuleNotFoundError: No module named 'no_such_module': 'gone'"):
        find_evaluator("gone")


def test_numbers_of_any_library_are_accuracies() -> None:
    for value in (0, 1, 0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])):
        assert type(to_accuracy(value)) is float
    for wrong in (2, -1, np.float32("nan"), torch.tensor(1.5), "1", b"1", False, None, BlockSpec("conv"), object()):
        with pytest.raises(TrainingError, match="must be in"):
            to_accuracy(wrong)


def test_a_search_goes_on_where_an_evaluator_fails(
    module: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "def f(arch, seed):\n    if len(list(arch.blocks())) > 2:\n        raise OSError('disk')\n    return 0.5\n"
    (tmp_path / f"{module}.py").write_text(source)
    args = [
        "search",
        "--space",
        str(tiny_space),
        "--run",
        str(tmp_path / "a"),
        "--trials",
        "6",
        "--seed",
        "1",
        "--controller",
        "tpe",
    ]
    assert main([*args, "--runtime", "null", "--target-latency", "1ms", "--evaluator", f"{module}:f", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] + len(result["failed"]) == 6
    assert result["failed"]
    for failure in result["failed"]:
        assert failure["error"] == f"{module}:f: OSError: disk ({tmp_path / f'{module}.py'}:3)"
    assert {trial["accuracy"] for trial in result["candidates"]} == {0.5}
    assert isinstance(ARCH, Architecture)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Empty", r"has no method evaluate\(arch, seed\)"),
        ("one", r"must take two arguments, \(arch, seed\), not \(arch\)"),
        ("Three", r"must take two arguments, \(arch, seed\), not \(arch, seed, more\)"),
    ],
)
def test_an_evaluator_that_cannot_be_called_is_refused_before_the_first_trial(
    name: str, rule: str, task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uncallable.py").write_text("""
class Empty:
    def __init__(self, context): pass

class Three(Empty):
    def evaluate(self, arch, seed, more): return 0.5

def one(arch): return 0.5
""")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rule):
        find_evaluator(f"uncallable:{name}")(setup_of(task, tmp_path))
