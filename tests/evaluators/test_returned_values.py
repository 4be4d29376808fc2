"""What a user's evaluator may return and yield: one number, or an iterator of numbers."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.cli.main import main
from nas.evaluators.returned_values import accuracies_of
from nas.training.loop import TrainingError

Scores = namedtuple("Scores", "accuracy loss")
NUMBER = itertools.count()


async def asynchronous() -> float:
    return 0.5


async def asynchronous_generator() -> AsyncIterator[float]:
    yield 0.5


def returns_after_yield() -> Any:
    yield 0.25
    return 0.75


@pytest.mark.parametrize(
    "one", [0.5, np.float32(0.5), np.array(0.5), np.array([[0.5]]), torch.tensor(0.5), torch.tensor([0.5])], ids=repr
)
def test_one_number_of_any_library_is_one_accuracy(one: Any) -> None:
    assert list(accuracies_of(one)) == [0.5]
    assert list(accuracies_of(iter([one, one]))) == [0.5, 0.5]


@pytest.mark.parametrize(
    "stream", [iter([0.2, 0.4]), map(float, ("0.2", "0.4")), (x / 10 for x in (2, 4))], ids=["list", "map", "generator"]
)
def test_an_iterator_yields_accuracies_over_time(stream: Iterator[float]) -> None:
    assert list(accuracies_of(stream)) == [0.2, 0.4]


INVALID: list[tuple[Callable[[], Any], str]] = [
    (lambda: (0.8, 0.6), r"must be one number in \[0, 1\], not a tuple of 2: \(0.8, 0.6\); return the accuracy alone"),
    (lambda: Scores(0.8, 0.6), "not a Scores of 2"),
    (lambda: [0.1, 0.2], "not a list of 2"),
    (lambda: [0.5], "not a list of 1"),
    (lambda: [], "not a list of 0"),
    (lambda: {"accuracy": 0.5}, "not a dict of 1: {'accuracy': 0.5}"),
    (lambda: {0.5}, "not a set of 1"),
    (lambda: np.array([0.1, 0.2]), "not 'ndarray' of 2 elements"),
    (lambda: np.array([]), "not 'ndarray' of 0 elements"),
    (lambda: torch.tensor([[0.1], [0.2]]), "not 'Tensor' of 2 elements"),
    (lambda: None, "must be in .*: None$"),
    (lambda: "0.5", "must be in .*: '0.5'$"),
    (lambda: True, "must be in .*: True$"),
    (lambda: np.bool_(True), "must be in .*True"),
    (lambda: range(1), r"must be in .*: range\(0, 1\)$"),
    (lambda: 87.5, "must be in .*: 87.5; if it is a percentage, return 0.875$"),
    (lambda: 870.0, "must be in .*: 870.0$"),
    (lambda: -0.5, "must be in .*: -0.5$"),
    (asynchronous, "not a coroutine; write the evaluator without 'async'"),
    (asynchronous_generator, "not 'async_generator'; write the evaluator without 'async'"),
]


@pytest.mark.parametrize(("make", "message"), INVALID, ids=[message for _, message in INVALID])
def test_everything_else_is_refused_whether_returned_or_yielded(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        list(accuracies_of(make()))
    stream = accuracies_of(iter([0.5, make()]))
    assert next(stream) == 0.5
    with pytest.raises(TrainingError, match=message):
        next(stream)


def test_an_empty_iterator_and_a_returned_value_of_a_generator_are_refused() -> None:
    with pytest.raises(TrainingError, match="it yielded no accuracy"):
        list(accuracies_of(iter([])))
    with pytest.raises(TrainingError, match=r"a generator must yield its accuracies, not return them: 0\.75"):
        list(accuracies_of(returns_after_yield()))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_returned_value_is_an_accuracy_or_one_line(value: Any) -> None:
    try:
        (accuracy,) = accuracies_of(value)
    except TrainingError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= accuracy <= 1
        assert type(value) in (int, float)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"returning_evaluator_{next(NUMBER)}"
    (tmp_path / f"{name}.py").write_text(
        "def pair(arch, seed):\n    return 0.8, 0.6\n"
        "class Pair:\n    def __init__(self, context): pass\n    def evaluate(self, arch, seed): yield 0.8, 0.6\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(("function", "more"), [("pair", []), ("Pair", []), ("pair", ["--workers", "1"])])
def test_a_search_fails_such_candidates(
    function: str, more: list[str], module: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["search", "--space", str(tiny_space), "--run", str(tmp_path / "run"), "--trials", "6", "--target-latency"]
    args += ["1ms", "--runtime", "null", "--controller", "random", "--evaluator", f"{module}:{function}", *more]
    assert main([*args, "--json"]) == 2
    assert "an accuracy must be one number in [0, 1], not a tuple of 2: (0.8, 0.6)" in capsys.readouterr().err
    journal = (tmp_path / "run" / "journal.log").read_text()
    assert json.dumps("not a tuple of 2: (0.8, 0.6)")[1:-1] in journal
