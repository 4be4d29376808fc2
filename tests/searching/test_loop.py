"""The loop with evaluators that do as they are told: stopping, failures, and going on after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.architecture import Architecture
from nas.controllers.base import Problem
from nas.controllers.random import RandomController
from nas.controllers.tpe import TPEController
from nas.errors import RunError, UsageError
from nas.evaluators.executors.base import Event
from nas.networks.network import totals, trace
from nas.searching.early_stopping import Rungs, make_rungs
from nas.searching.live_display import incumbent
from nas.searching.loop import HOPELESS, SearchPlan, search
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import make_objective
from nas.study.study import JOURNAL, Repeat, Study, Trial, open_study
from nas.study.trial_ownership import Claim
from nas.training.loop import TrainingError
from nas.utils.reporting import Reporter
from tests.helpers.scripted_evaluator import Several

FULL = make_rungs("full", 3, 1, 9)
Script = Callable[[Architecture, int], Any]


class Scripted:
    """Does what a function says; counts the epochs that were asked of it."""

    def __init__(self, script: Script):
        self.script, self.epochs = script, 0

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        for accuracy in self.script(arch, seed):
            self.epochs += 1
            yield accuracy


def learns(arch: Architecture, seed: int) -> list[float]:
    """Nine epochs towards an accuracy that the digest decides; no two curves cross."""
    best = 0.2 + int(arch.digest[:4], 16) / 2**17
    return [best * (1 - math.exp(-epoch / 3)) for epoch in range(1, 10)]


@pytest.fixture
def space(tiny_space: Path) -> Space:
    return load_space(str(tiny_space)).for_classes(10)


def predict(arch: Architecture) -> float:
    return totals(trace(arch)).macs / 1e6


def run(
    space: Space, folder: Path, script: Script, trials: int, rungs: Rungs = FULL, objective: str = "soft",
    controller: Any = TPEController, retry_failed: bool = False,
) -> tuple[list[Trial], int]:  # fmt: skip
    """Return the trials of a search in `folder`, which goes on if it has some, and the epochs evaluated now."""
    evaluator, goal = Scripted(script), make_objective(objective, 1.0)
    with open_study(folder, {}, space, goal.directions) as study:
        problem = Problem(encode_space(space, lambda layer: layer.macs / 1e6), goal)
        plan = SearchPlan(space, controller(problem), evaluator, goal, predict, rungs)
        search(plan, study, trials, 0, Reporter(quiet=True), retry_failed)
        return study.evaluated, evaluator.epochs


def facts(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.architecture.digest, t.curve, t.stopped_at, t.values) for t in trials]


@pytest.mark.parametrize("objective", ["soft", "constrained", "pareto"])
@pytest.mark.parametrize("fidelity", ["halving", "hyperband"])
def test_a_stopped_training_ends_and_the_best_does_not(
    fidelity: str, objective: str, space: Space, tmp_path: Path
) -> None:
    rungs = make_rungs(fidelity, 3, 1, 9)
    trials, epochs = run(space, tmp_path / "run", learns, 16, rungs, objective)
    stopped = [trial for trial in trials if trial.stopped_at]
    assert stopped
    assert epochs == sum(len(trial.curve) for trial in trials) < (0.6 if fidelity == "halving" else 0.9) * 9 * 16
    for trial in stopped:
        assert trial.stopped_at == len(trial.curve) in (1, 3)
        assert trial.metrics.accuracy == trial.curve[-1]
        assert list(trial.curve) == learns(trial.architecture, 0)[: len(trial.curve)]
    assert len({trial.architecture.digest for trial in trials}) == 16
    if objective == "soft" and fidelity == "halving":
        goal = make_objective("soft", 1.0)
        best = max(trials, key=lambda t: goal.score(t.metrics))
        assert best.stopped_at is None


@pytest.mark.parametrize("objective", ["soft", "pareto"])
@pytest.mark.parametrize("cut", [3, 7, 11])
def test_a_search_that_goes_on_decides_as_one_that_was_never_cut(
    cut: int, objective: str, space: Space, tmp_path: Path
) -> None:
    rungs = make_rungs("halving", 3, 1, 9)
    whole, _ = run(space, tmp_path / "whole", learns, 12, rungs, objective)
    run(space, tmp_path / "cut", learns, cut, rungs, objective)
    journal = tmp_path / "cut" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-40])  # the last trial is lost
    again, _ = run(space, tmp_path / "cut", learns, 12, rungs, objective)
    assert facts(again) == facts(whole)


def test_stopped_trials_are_pruned_ones_to_optuna_and_keep_their_curves(space: Space, tmp_path: Path) -> None:
    import optuna

    trials, _ = run(space, tmp_path, learns, 8, make_rungs("halving", 3, 1, 9))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    study = optuna.load_study(study_name="nas", storage=optuna.storages.JournalStorage(backend))
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE" if trial.stopped_at is None else "PRUNED" for trial in trials]
    assert [tuple(trial.user_attrs["curve"]) for trial in study.trials] == [trial.curve for trial in trials]
    with open_study(tmp_path, {}, space, ("maximize",)) as again:
        assert len(again.trials) + len(again.stopped) == again.count == 8
        assert all(trial.stopped_at is None for trial in again.trials)
        assert incumbent(again, make_objective("soft", 1.0)) in again.trials


def raising(error: Exception) -> Script:
    def script(arch: Architecture, seed: int) -> Iterator[float]:
        yield 0.5
        raise error

    return script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (raising(TrainingError("the loss is nan in epoch 1")), "the loss is nan in epoch 1"),
        (raising(RuntimeError("no\nsuch  kernel")), "RuntimeError: no such kernel (test_loop.py:"),
        (raising(MemoryError()), "MemoryError (test_loop.py:"),
        (raising(ValueError("x" * 900)), "ValueError: " + "x" * 297 + "... (test_loop.py:"),
        (raising(torch.OutOfMemoryError("CUDA")), "OutOfMemoryError: CUDA (test_loop.py:"),
        (lambda arch, seed: 3, "TypeError: 'int' object is not iterable (test_loop.py:"),
        (lambda arch, seed: [0.5, 1.7], "an accuracy must be a number in [0, 1]: 1.7"),
        (lambda arch, seed: [-0.1], "an accuracy must be a number in [0, 1]: -0.1"),
        (lambda arch, seed: [float("nan")], "an accuracy must be a number in [0, 1]: nan"),
        (lambda arch, seed: ["0.9"], "an accuracy must be a number in [0, 1]: '0.9'"),
        (lambda arch, seed: [True], "an accuracy must be a number in [0, 1]: True"),
        (lambda arch, seed: [None], "an accuracy must be a number in [0, 1]: None"),
        (lambda arch, seed: [], "the evaluator yielded no accuracy"),
    ],
)  # fmt: skip
def test_whatever_an_evaluator_does_wrong_fails_the_trial_and_the_search_goes_on(
    script: Script, expected: str, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def second_fails(arch: Architecture, seed: int) -> Any:
        seen.append(arch.digest)
        return script(arch, seed) if len(seen) == 2 else learns(arch, seed)

    trials, _ = run(space, tmp_path, second_fails, 4)
    assert len(trials) == 3
    with open_study(tmp_path, {}, space, ("maximize",)) as study:
        (failed,) = study.failed
    digest, why = failed.digest, failed.error
    assert digest == seen[1]
    assert why.startswith(expected)
    assert "\n" not in why
    assert f"warning: {digest} failed: {expected}" in capsys.readouterr().err


def test_an_interrupt_and_a_run_folder_that_cannot_be_written_are_no_failures_of_a_trial(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arch: Architecture, seed: int) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(space, tmp_path / "a", interrupted, 4)
    with pytest.raises(RunError, match="disk"):
        run(space, tmp_path / "b", raising(RunError("the disk is full")), 4)
    with open_study(tmp_path / "b", {}, space, ("maximize",)) as study:
        assert study.count == 0

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(study._store._storage, "set_study_user_attr", full)
        with pytest.raises(RunError, match="No space left"):
            study.record_repeat(Repeat("0" * 16, 1, 1, 0, (0.5,)))
        assert not study.repeats


def test_a_search_whose_first_candidates_all_fail_alike_ends(space: Space, tmp_path: Path) -> None:
    count = 0

    def alike(arch: Architecture, seed: int) -> list[float]:
        nonlocal count
        count += 1
        return [1 + count]

    message = r"--evaluator: the first 5 candidates all failed alike, the last: an accuracy .*: 6"
    with pytest.raises(UsageError, match=message):
        run(space, tmp_path, alike, 12)
    assert count == HOPELESS
    with pytest.raises(UsageError, match="the first 6 candidates"):
        run(space, tmp_path, alike, 12)
    trials, _ = run(space, tmp_path, learns, 12)  # the evaluator was mended
    assert len(trials) == 6


def test_candidates_that_fail_each_in_another_way_are_all_tried(space: Space, tmp_path: Path) -> None:
    words = iter("abcdefgh")

    def differing(arch: Architecture, seed: int) -> list[float]:
        raise RuntimeError(next(words))

    trials, _ = run(space, tmp_path, differing, 8, controller=RandomController)
    assert trials == []


def test_the_incumbent_is_the_best_by_what_is_known_of_the_noise(space: Space, tmp_path: Path) -> None:
    goal = make_objective("constrained", 1e9)
    run(space, tmp_path, learns, 6, objective="constrained")
    with open_study(tmp_path, {}, space, goal.directions) as study:
        lucky, honest = sorted(study.trials, key=lambda trial: -trial.metrics.accuracy)[:2]
        assert incumbent(study, goal) == lucky
        unknown = study.noise
        for seed in (1, 2):
            study.record_repeat(Repeat(lucky.architecture.digest, seed, 1, 6, (0.25 + seed / 1000,)))
            study.record_repeat(Repeat(honest.architecture.digest, seed, 1, 6, (honest.metrics.accuracy,)))
        assert unknown is None
        assert study.noise is not None
        assert incumbent(study, goal) != lucky
    with open_study(tmp_path, {}, space, goal.directions) as again:
        assert len(again.repeats) == 4
        assert again.noise == study.noise
        assert len(again.accuracies(before=6)[lucky.architecture.digest]) == 1


def test_failures_are_tried_again_when_asked_for_and_keep_their_place(space: Space, tmp_path: Path) -> None:
    def picky(arch: Architecture, seed: int) -> list[float]:
        if int(arch.digest[-1], 16) % 2:
            raise RuntimeError(f"no memory for {arch.digest}")
        return learns(arch, seed)

    whole, _ = run(space, tmp_path / "whole", learns, 8, controller=RandomController)
    some, _ = run(space, tmp_path / "some", picky, 8, controller=RandomController)
    assert 0 < len(some) < 8
    same, epochs = run(space, tmp_path / "some", learns, 8, controller=RandomController)
    assert (facts(same), epochs) == (facts(some), 0)
    again, epochs = run(space, tmp_path / "some", learns, 8, controller=RandomController, retry_failed=True)
    assert facts(again) == facts(whole)
    assert epochs == 9 * (8 - len(some))


def die(study: Study, first: Trial, saved: int = 0) -> Claim:
    """Claim the first candidate, or take it over from a dead process, and die: nothing is released."""
    stale = study.stale()
    claim = study.claim_again(stale[0], saved) if stale else study.claim(first.choices, first.digest)
    assert claim is not None
    study._own_claims.clear()
    return claim


def test_a_candidate_of_which_three_processes_died_failed(space: Space, tmp_path: Path) -> None:
    first = run(space, tmp_path / "whole", learns, 3)[0][0]
    goal = make_objective("soft", 1.0)
    for attempt in range(4):
        with open_study(tmp_path / "run", {}, space, goal.directions) as study:
            if attempt < 3:
                assert die(study, first).attempt == attempt + 1
            else:
                study.stale()
    trials, _ = run(space, tmp_path / "run", learns, 3)
    assert len(trials) == 2
    with open_study(tmp_path / "run", {}, space, goal.directions) as study:
        (failed,) = study.failed
    assert failed.digest == first.digest
    assert failed.error == "its process died 3 times while it was evaluated: out of memory?"


def test_a_candidate_whose_evaluation_goes_on_after_each_death_is_kept(space: Space, tmp_path: Path) -> None:
    first = run(space, tmp_path / "whole", learns, 3)[0][0]
    goal = make_objective("soft", 1.0)
    for saved in range(6):
        with open_study(tmp_path / "run", {}, space, goal.directions) as study:
            claim = die(study, first, saved)
            assert (claim.attempt, claim.saved) == (1, saved)
    trials, _ = run(space, tmp_path / "run", learns, 3)
    assert len(trials) == 3


@pytest.mark.parametrize("fidelity", ["full", "halving"])
def test_an_executor_with_two_slots_has_two_candidates_under_way(fidelity: str, space: Space, tmp_path: Path) -> None:
    goal, evaluator = make_objective("soft", 1.0), Scripted(learns)
    executor, asked = Several(evaluator), []

    class Noting(RandomController):
        def ask(self, seed: int, pending: Sequence[Any] = ()) -> dict[str, Any]:
            asked.append(len(pending))
            return super().ask(seed, pending)

    with open_study(tmp_path, {}, space, goal.directions) as study:
        problem = Problem(encode_space(space, lambda layer: layer.macs / 1e6), goal)
        rungs = make_rungs(fidelity, 3, 1, 9)
        plan = SearchPlan(space, Noting(problem), evaluator, goal, predict, rungs, executor=executor)
        search(plan, study, 8, 0, Reporter(quiet=True))
        assert study.count == 8
        assert [trial.number for trial in study.evaluated] == list(range(8))
        assert bool(study.stopped) == (fidelity == "halving")
    assert executor.most == 2
    assert set(asked) == {0, 1}
    assert not executor.under_way


class Moving:
    """An executor that loses each candidate once, after it has told one accuracy of it."""

    slots = 1

    def __init__(self) -> None:
        self.events: list[Event] = []

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        curve = [Event(number, accuracy) for accuracy in learns(arch, seed)]
        self.events = [Event(number, 0.9), Event(number, again=True), *curve, Event(number)]

    def wait(self) -> Event:
        return self.events.pop(0)

    def stop(self, number: int) -> None:
        self.events = []

    def close(self) -> None:
        self.events = []


def test_what_a_lost_place_told_of_a_candidate_does_not_count(space: Space, tmp_path: Path) -> None:
    goal = make_objective("soft", 1.0)
    with open_study(tmp_path, {}, space, goal.directions) as study:
        problem = Problem(encode_space(space, lambda layer: layer.macs / 1e6), goal)
        plan = SearchPlan(space, RandomController(problem), Scripted(learns), goal, predict, FULL, executor=Moving())
        search(plan, study, 4, 0, Reporter(quiet=True))
        assert [list(trial.curve) for trial in study.trials] == [
            learns(trial.architecture, 0) for trial in study.trials
        ]
        assert len(study.trials) == 4
