"""The finalists' stage: who is evaluated again, what is believed of them, and that a kill loses nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.networks.network import canonical
from nas.searching.finalists import AccuracyRecord, FinalistEstimates, Stage, evaluate_finalists, train_finalists
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import Metrics, make_objective
from nas.study.study import Study, open_study
from nas.utils.reporting import Reporter
from tests.helpers.scripted_evaluator import Several
from tests.helpers.trials import record

SPACE: Space = load_space("mobile")
GOAL = make_objective("constrained", 10.0)


class Killed(BaseException):
    """Ends the stage where a signal would."""


@dataclass
class Noisy:
    """Evaluates with a noise that architecture, seed and length decide; longer trainings are better by a tenth."""

    truth: dict[str, float]
    noise: float
    times: int = 1
    left: int = 1000

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        if self.left == 0:
            raise Killed
        self.left -= 1
        rng = np.random.default_rng([int(arch.digest, 16), seed, self.times])
        gain = 0.1 * (self.times > 1)
        yield float(np.clip(self.truth[arch.digest] + gain + rng.normal(0, self.noise), 0, 1))


@dataclass
class Patient(Noisy):
    """One that can train longer."""

    def longer(self, times: int) -> Noisy:
        return Noisy(self.truth, self.noise, times, self.left)


def fill(study: Study, evaluator: Noisy, count: int, latency_ms: float = 1.0) -> None:
    """Search: `count` candidates, evaluated with seed 0."""
    for number in range(study.count, count):
        choices = SPACE.sample(random.Random(number))
        arch = canonical(SPACE.decode(choices))
        evaluator.truth.setdefault(arch.digest, 0.5 + 0.02 * (number % 6))
        (accuracy,) = evaluator.evaluate(arch, 0)
        record(study, choices, arch, Metrics(accuracy, latency_ms, 1, 1), (accuracy,), 0.0, (accuracy,))


def stage(study: Study, evaluator: Any, most: int = 5, rounds: int = 2) -> FinalistEstimates:
    return evaluate_finalists(Stage(study, GOAL.goals[0], 0, most, rounds, Reporter(quiet=True)), evaluator)


def seeds_of(study: Study) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for repeat in study.repeats.values():
        found.setdefault(repeat.repeat_of, []).append((repeat.seed, repeat.longer))
    return found


def test_the_noisier_the_evaluator_the_more_finalists(tmp_path: Path) -> None:
    counts = []
    for noise in (1e-4, 0.03):
        evaluator = Noisy({}, noise)
        with open_study(tmp_path / str(noise), {}, SPACE, ("maximize",)) as study:
            fill(study, evaluator, 12)
            finals = stage(study, evaluator)
        assert finals.noise_model is not None
        assert noise / 5 < finals.noise_model.noise < 2 * noise
        counts.append(len(finals.finalists))
    assert 2 <= counts[0] < counts[1] == 5


def test_each_round_takes_the_better_half_and_trains_twice_as_long(tmp_path: Path) -> None:
    for kind in (Noisy, Patient):
        evaluator = kind({}, 0.03)
        with open_study(tmp_path / kind.__name__, {}, SPACE, ("maximize",)) as study:
            fill(study, evaluator, 12)
            finals = stage(study, evaluator, rounds=3)
            longest = [2, 4] if kind is Patient else [1, 1]
            once, thrice = [(1, 1)], [(1, 1), (2, longest[0]), (3, longest[1])]
            assert sorted(seeds_of(study).values()) == sorted([once] * 3 + [thrice] * 2)
            assert set(finals.finalists) == set(seeds_of(study))
            assert set(finals.accuracies) == {trial.architecture.digest for trial in study.trials}
            assert all(0.4 < estimate < 0.7 for estimate in finals.accuracies.values())


def test_a_lucky_candidate_is_not_named(tmp_path: Path) -> None:
    evaluator = Noisy({}, 0.01)
    with open_study(tmp_path, {}, SPACE, ("maximize",)) as study:
        fill(study, evaluator, 12)
        choices = SPACE.sample(random.Random(99))
        arch = canonical(SPACE.decode(choices))
        evaluator.truth[arch.digest] = 0.5
        record(study, choices, arch, Metrics(0.65, 1.0, 1, 1), (0.65,), 0.0, (0.65,))
        finals = stage(study, evaluator)
    best = max(finals.accuracies, key=lambda digest: finals.accuracies[digest])
    assert arch.digest in finals.finalists
    assert best != arch.digest
    assert finals.accuracies[arch.digest] < 0.62


@pytest.mark.parametrize("kind", [Noisy, Patient])
def test_a_stage_that_is_killed_anywhere_ends_as_one_that_is_not(kind: type[Noisy], tmp_path: Path) -> None:
    with open_study(tmp_path / "whole", {}, SPACE, ("maximize",)) as study:
        evaluator = kind({}, 0.03)
        fill(study, evaluator, 12)
        whole, repeats = stage(study, evaluator), list(study.repeats.values())
    assert len(repeats) == 7
    for cut in range(len(repeats)):
        with open_study(tmp_path / str(cut), {}, SPACE, ("maximize",)) as study:
            fill(study, kind(evaluator.truth, 0.03), 12)
            with pytest.raises(Killed):
                stage(study, kind(evaluator.truth, 0.03, left=cut) if kind is Noisy else stops_after(evaluator, cut))
        with open_study(tmp_path / str(cut), {}, SPACE, ("maximize",)) as study:
            assert len(study.repeats) == cut
            assert stage(study, kind(evaluator.truth, 0.03)) == whole
            assert list(study.repeats.values()) == repeats


def stops_after(evaluator: Noisy, evaluations: int) -> Any:
    """Return a Patient evaluator that is killed after so many evaluations, long ones counted."""

    class Shared(Patient):
        def longer(self, times: int) -> Noisy:
            return Noisy(self.truth, self.noise, times, self.left)

    return Shared(evaluator.truth, evaluator.noise, left=evaluations)


def test_repeats_of_an_earlier_stage_count_when_more_trials_follow(tmp_path: Path) -> None:
    evaluator = Noisy({}, 0.03)
    with open_study(tmp_path, {}, SPACE, ("maximize",)) as study:
        fill(study, evaluator, 8)
        first = stage(study, evaluator)
        made = dict(study.repeats)
        fill(study, evaluator, 16)
        second = stage(study, evaluator)
        assert made.items() <= study.repeats.items()
        assert first.noise_model is not None
        assert second.noise_model is not None
        assert second.noise_model.degrees > first.noise_model.degrees
        assert second.noise_model.degrees == sum(repeat.longer == 1 for repeat in study.repeats.values())
        assert stage(study, evaluator) == second


def test_nothing_is_repeated_where_it_could_tell_nothing(tmp_path: Path) -> None:
    with open_study(tmp_path / "a", {}, SPACE, ("maximize",)) as study:
        evaluator = Noisy({}, 0.03)
        fill(study, evaluator, 6)
        none = stage(study, evaluator, rounds=0)
        accuracies = {trial.digest: trial.metrics.accuracy for trial in study.trials}
        alone = {digest: [accuracy] for digest, accuracy in accuracies.items()}
        assert none == FinalistEstimates(None, accuracies, (), alone)
        exact: Any = Noisy(evaluator.truth, 0.03)
        exact.deterministic = True
        assert stage(study, exact) == none
        assert not study.repeats
    with open_study(tmp_path / "b", {}, SPACE, ("maximize",)) as study:
        fill(study, evaluator, 6, latency_ms=11.0)
        assert stage(study, evaluator).finalists == ()
    with open_study(tmp_path / "c", {}, SPACE, ("maximize",)) as study:
        same = Noisy({}, 0.0)
        fill(study, same, 6)
        finals = stage(study, same)
        assert finals.noise_model is not None
        assert finals.noise_model.noise == 0
        assert len(study.repeats) == 2


def test_a_finalist_that_fails_is_recorded_and_the_others_decide(tmp_path: Path) -> None:
    evaluator = Noisy({}, 0.02)
    with open_study(tmp_path, {}, SPACE, ("maximize",)) as study:
        fill(study, evaluator, 8)
        best = max(study.trials, key=lambda trial: trial.metrics.accuracy).architecture.digest

        class Fails(Noisy):
            def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
                if arch.digest == best:
                    raise RuntimeError("no memory")
                return super().evaluate(arch, seed)

        finals = stage(study, Fails(evaluator.truth, 0.02))
        failed = [repeat for repeat in study.repeats.values() if repeat.error]
        assert {repeat.repeat_of for repeat in failed} == {best}
        assert "RuntimeError: no memory" in str(failed[0].error)
    assert finals.noise_model is not None
    assert best in finals.finalists


def test_two_at_a_time_come_to_the_same_and_a_kill_loses_neither_what_was_finished(tmp_path: Path) -> None:
    goal, quiet = GOAL.goals[0], Reporter(quiet=True)
    with open_study(tmp_path / "one", {}, SPACE, ("maximize",)) as study:
        evaluator = Patient({}, 0.03)
        fill(study, evaluator, 12)
        alone, repeats = stage(study, evaluator, rounds=3), set(study.repeats)
    made = list[Several]()

    def make() -> Several:
        made.append(Several(Patient(evaluator.truth, 0.03, left=left)))
        return made[-1]

    for left in (1, 2, 2, 1000):
        with open_study(tmp_path / "two", {}, SPACE, ("maximize",)) as study:
            fill(study, Patient(evaluator.truth, 0.03), 12)
            before = len(study.repeats)
            ended = Stage(study, goal, 0, 5, 3, quiet, make)
            if left < 1000:
                with pytest.raises(Killed):
                    evaluate_finalists(ended, evaluator)
                assert len(study.repeats) > before or left < 2
                assert made[-1].closed
                continue
            assert evaluate_finalists(ended, evaluator) == alone
            assert set(study.repeats) == repeats
            assert (made[-1].most, len(made)) == (2, 4)
            assert evaluate_finalists(ended, evaluator) == alone
            assert len(made) == 4  # nothing was left to evaluate


def test_finalists_that_are_trained_are_trained_at_once_and_only_the_better_half_again(tmp_path: Path) -> None:
    scores, trainer = Noisy({}, 0.0), Noisy({}, 0.01)
    with open_study(tmp_path, {}, SPACE, ("maximize",)) as study:
        fill(study, scores, 12)
        trainer.truth = {digest: 0.2 + truth / 2 for digest, truth in scores.truth.items()}
        several = Several(trainer)
        finals = train_finalists(Stage(study, GOAL.goals[0], 0, 5, 2, Reporter(quiet=True), lambda: several), trainer)
        assert several.most == 2
        assert several.closed
        assert sorted(seeds_of(study).values()) == [[(1, 0)]] * 3 + [[(1, 0), (2, 0)]] * 2
        assert set(finals.finalists) == set(seeds_of(study))
        for digest in finals.finalists:
            assert finals.accuracies[digest] == pytest.approx(trainer.truth[digest], abs=0.04)
        assert train_finalists(Stage(study, GOAL.goals[0], 0, 5, 2, Reporter(quiet=True)), trainer) == finals


def test_a_longer_training_tells_finalists_apart_but_not_from_the_others() -> None:
    usual = {"a": [0.6, 0.62], "b": [0.6, 0.62], "c": [0.58]}
    even = AccuracyRecord({key: list(values) for key, values in usual.items()}, {2: {"a": 0.8, "b": 0.8}}).estimates()
    apart = AccuracyRecord(
        {key: list(values) for key, values in usual.items()}, {2: {"a": 0.84, "b": 0.76}}
    ).estimates()
    assert even["a"] == even["b"]
    assert even["a"] < 0.65
    assert apart["a"] > apart["b"]
    assert (apart["a"] + apart["b"]) / 2 == pytest.approx(even["a"])
    assert apart["c"] == even["c"]
