"""Proxy training: an evaluation that was killed continues, and one that has ended leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.evaluators import proxy_training
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import CHECKPOINTS, ProxyTraining
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space
from nas.training import loop
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification

EPOCHS = 3


@pytest.fixture
def evaluator(tiny_space: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ProxyTraining]:
    """A function that makes an evaluator of three epochs in a folder, each of which is saved."""
    monkeypatch.setattr(proxy_training, "CHECKPOINT_S", 0.0)
    space = replace(load_space(str(tiny_space)).for_classes(10), proxy=Proxy(8, EPOCHS, 100))
    task = Classification.load("digits")
    return lambda folder: ProxyTraining(EvaluatorContext(task, space, folder))


@pytest.fixture
def arch(tiny_space: Path) -> Architecture:
    space = load_space(str(tiny_space)).for_classes(10)
    return space.decode({key: values[0] for key, values in space.choices.items()})


def kept(folder: Path) -> list[Path]:
    return list((folder / CHECKPOINTS).glob("*")) if (folder / CHECKPOINTS).is_dir() else []


def test_a_killed_evaluation_continues_to_the_same_values(
    evaluator: Callable[[Path], ProxyTraining], arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(evaluator(tmp_path / "whole").evaluate(arch, 0))
    assert len(whole) == EPOCHS
    assert not kept(tmp_path / "whole")
    cut = evaluator(tmp_path / "cut")
    assert cut.saved(arch, 0) == 0
    running: Any = cut.evaluate(arch, 0)
    assert [next(running), next(running)] == whole[:2]
    (path,) = kept(tmp_path / "cut")
    content = path.read_bytes()
    running.close()  # a stopped evaluation does not continue; a killed one leaves its file
    assert not kept(tmp_path / "cut")
    path.write_bytes(content)
    trained = list[int]()
    train_epoch = loop._train_epoch

    def counted(state: Any, job: Any, loader: Any, number: int) -> Any:
        trained.append(number)
        return train_epoch(state, job, loader, number)

    monkeypatch.setattr(loop, "_train_epoch", counted)
    again = evaluator(tmp_path / "cut")
    assert (again.saved(arch, 0), again.saved(arch, 1)) == (2, 0)
    assert list(again.evaluate(arch, 0)) == whole
    assert trained == [2]
    assert not kept(tmp_path / "cut")


def test_a_broken_checkpoint_is_trained_again(
    evaluator: Callable[[Path], ProxyTraining], arch: Architecture, tmp_path: Path
) -> None:
    whole = evaluator(tmp_path)
    running: Any = whole.evaluate(arch, 0)
    next(running)
    (path,) = kept(tmp_path)
    running.close()
    path.write_bytes(b"no checkpoint")
    assert whole.saved(arch, 0) == 0
    assert len(list(whole.evaluate(arch, 0))) == EPOCHS


def test_a_failed_evaluation_leaves_no_checkpoint_and_an_interrupted_one_does(
    evaluator: Callable[[Path], ProxyTraining], arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = loop._train_epoch

    def raising(error: BaseException) -> Callable[..., Any]:
        return lambda state, job, loader, number: (
            train_epoch(state, job, loader, number) if number == 0 else _raise(error)
        )

    for error, files in ((TrainingError("no"), 0), (KeyboardInterrupt(), 1)):
        monkeypatch.setattr(loop, "_train_epoch", raising(error))
        with pytest.raises(type(error)):
            list(evaluator(tmp_path).evaluate(arch, 0))
        assert len(kept(tmp_path)) == files


def _raise(error: BaseException) -> Any:
    raise error


def test_without_a_run_folder_nothing_is_written(
    evaluator: Callable[[Path], ProxyTraining], arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert len(list(evaluator(Path()).evaluate(arch, 0))) == EPOCHS
    assert set(tmp_path.rglob("*")) == before
