"""Finalists: evaluates the best few candidates again before the winner is chosen.

Single evaluations are noisy, and the best of many is partly lucky. Further evaluations use other seeds and, in later
rounds, more epochs for the better half. They show how large the noise is, which candidates may be the best, and what
accuracy to expect of each (`nas.study.evaluation_noise`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean

from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Executor, Task, evaluate_all
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.study.evaluation_noise import NoiseModel, fit
from nas.study.objectives import Goal, preference
from nas.study.reliability import rivals
from nas.study.study import Repeat, Study, Trial
from nas.utils.reporting import Reporter

FEWEST = 2
"""Fewer candidates than this need no comparison."""
TRAINED = 0
"""The `longer` of a repeat that was trained in a search whose evaluator does not train."""
Repeater = Callable[[Sequence[Trial], int, int], dict[str, float]]
"""Evaluates trials again. (trials, round from 1, factor of the epochs) -> new accuracies by digest.

Failed evaluations are left out, and so are those that are known already.
"""


@dataclass
class AccuracyRecord:
    """All accuracies of the finished trials, by digest.

    Attributes:
        usual: Accuracies of evaluations of the usual length: the search's own first.
        longer: Accuracies of longer evaluations, by the factor of their epochs.
        repeated: The digests of repeated trials, in the order in which they were chosen.
    """

    usual: dict[str, list[float]]
    longer: dict[int, dict[str, float]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    @property
    def noise_model(self) -> NoiseModel | None:
        """The noise of evaluations of the usual length, None before any repeat."""
        return fit(list(self.usual.values()))

    def estimates(self) -> dict[str, float]:
        """Return the accuracy to expect of each trial in an evaluation of the usual length.

        An evaluation of k times the length counts as another one of the usual length, after the mean gain of all
        evaluations of that length is subtracted. Longer training helps all of them; only the differences count.
        """
        model = self.noise_model
        if model is None:
            return {digest: accuracies[0] for digest, accuracies in self.usual.items()}
        return {digest: model.estimate(accuracies) for digest, accuracies in self.evaluations().items()}

    def evaluations(self) -> dict[str, list[float]]:
        """Return all accuracies of each trial, those of longer evaluations without their gain."""
        model = self.noise_model
        if model is None:
            return self.usual
        first = {digest: model.estimate(accuracies) for digest, accuracies in self.usual.items()}
        values = {digest: list(accuracies) for digest, accuracies in self.usual.items()}
        for reached in self.longer.values():
            gain = fmean(accuracy - first[digest] for digest, accuracy in reached.items())
            for digest, accuracy in reached.items():
                values[digest].append(accuracy - gain)
        return values


@dataclass(frozen=True)
class FinalistEstimates:
    """What the finalists' evaluations have shown.

    Attributes:
        noise_model: The noise of evaluations, None when nothing was repeated.
        accuracies: The accuracy to expect of each finished trial, by digest.
        finalists: The digests of the trials that were evaluated again.
        evaluations: All accuracies of each trial that the estimates are based on.
    """

    noise_model: NoiseModel | None
    accuracies: dict[str, float]
    finalists: tuple[str, ...]
    evaluations: dict[str, list[float]] = field(default_factory=dict)

    def rivals(self, winner: str) -> set[str]:
        """Return the digests of the trials that may be as accurate as the winner, given the noise."""
        if self.noise_model is None or winner not in self.evaluations:
            return set()
        return set(rivals(self.noise_model, self.evaluations, winner))


@dataclass(frozen=True)
class Stage:
    """How finalists are evaluated again.

    Attributes:
        study: The trials of the search.
        goal: The goal whose best trials are the finalists.
        seed: The seed of the search. Round n uses seed + n.
        most: The largest number of finalists.
        rounds: The number of rounds.
        reporter: Prints messages and progress.
        executor: Makes the executor; None stands for evaluation in this process.
    """

    study: Study
    goal: Goal
    seed: int
    most: int
    rounds: int
    reporter: Reporter
    executor: Callable[[], Executor | None] = lambda: None


def evaluate_finalists(stage: Stage, evaluator: Evaluator) -> FinalistEstimates:
    """Evaluate the best trials again and return the accuracies to expect.

    The first round evaluates the best two with another seed, and then all that the noise found so far allows to be the
    best. Each further round evaluates the better half, at least two, with another seed. If the evaluator has
    `longer(times)`, each of these rounds also trains twice as long as the one before.

    Every evaluation is recorded as soon as it ends. Decisions depend only on what was known before the stage and on
    its own evaluations in their order, so a stage that was killed continues to the same result.

    With no rounds, or with an evaluator that is `deterministic`, nothing is evaluated.
    """
    study, goal = stage.study, stage.goal
    record = AccuracyRecord(study.accuracies(before=study.count))
    trials = within_target(study, goal)
    deterministic = getattr(evaluator, "deterministic", False)
    if stage.rounds == 0 or stage.most < FEWEST or len(trials) < FEWEST or deterministic:
        return FinalistEstimates(record.noise_model, record.estimates(), (), record.evaluations())
    with _repeater(stage, evaluator) as repeat:
        chosen = by_estimate(trials, record, goal)[:FEWEST]
        add_round(chosen, record, repeat, 1)
        others = contenders(trials, record, goal)[: stage.most - len(chosen)]
        add_round(others, record, repeat, 1)
        chosen += others
        for number in range(2, stage.rounds + 1):
            if (model := record.noise_model) is None or model.noise == 0:
                break
            chosen = by_estimate(chosen, record, goal)[: max(FEWEST, len(chosen) // 2)]
            add_round(chosen, record, repeat, number, 2 ** (number - 1) if hasattr(evaluator, "longer") else 1)
    return FinalistEstimates(record.noise_model, record.estimates(), tuple(record.repeated), record.evaluations())


def train_finalists(stage: Stage, trainer: Evaluator) -> FinalistEstimates:
    """Train the best trials, then in each round the better half with another seed.

    For searches whose evaluator ranks by shared weights or scores and does not train. MnasNet (section 5) trains its
    15 best networks. The accuracy to expect of a finalist is the mean of its trainings. Evaluations are recorded as
    `evaluate_finalists` records them.
    """
    study, goal = stage.study, stage.goal
    chosen, reached = within_target(study, goal)[: stage.most], dict[str, list[float]]()

    def key(trial: Trial) -> float:
        accuracy = fmean(reached[trial.digest])
        return -goal.score(replace(trial.metrics, accuracy=accuracy))

    with _repeater(stage, trainer) as repeat:
        for number in range(1, stage.rounds + 1):
            for digest, accuracy in repeat(chosen, number, TRAINED).items():
                reached.setdefault(digest, []).append(accuracy)
            trained = [trial for trial in chosen if trial.digest in reached]
            chosen = sorted(trained, key=key)[: max(FEWEST, len(chosen) // 2)]
    accuracies = {digest: values[0] for digest, values in study.accuracies().items()}
    accuracies |= {digest: fmean(values) for digest, values in reached.items()}
    return FinalistEstimates(fit(list(reached.values())), accuracies, tuple(reached), reached)


def within_target(study: Study, goal: Goal) -> list[Trial]:
    """Return the finished trials that hold the target by prediction, the best first."""
    return sorted(
        (trial for trial in study.trials if goal.holds(trial.metrics)),
        key=lambda trial: preference(goal, trial.metrics),
    )


def by_estimate(trials: Sequence[Trial], record: AccuracyRecord, goal: Goal) -> list[Trial]:
    """Return the trials by their score at the estimated accuracy, the best first."""
    estimates = record.estimates()
    return sorted(
        trials,
        key=lambda trial: -goal.score(replace(trial.metrics, accuracy=estimates[trial.digest])),
    )


def contenders(trials: Sequence[Trial], record: AccuracyRecord, goal: Goal) -> list[Trial]:
    """Return the trials that are not repeated yet and that, given the noise, may be the best; the best first."""
    model = record.noise_model
    if model is None:
        return []
    estimates = record.estimates()

    def score(trial: Trial, margin: float = 0.0) -> float:
        return goal.score(replace(trial.metrics, accuracy=estimates[trial.digest] + margin))

    best = max(score(trial) for trial in trials)
    waiting = [trial for trial in trials if trial.digest not in record.repeated]
    return [trial for trial in by_estimate(waiting, record, goal) if score(trial, model.explained()) >= best]


def add_round(trials: Sequence[Trial], record: AccuracyRecord, repeat: Repeater, number: int, longer: int = 1) -> None:
    """Evaluate trials again in round `number`, with `longer` times the epochs, and add the new accuracies."""
    record.repeated += [trial.digest for trial in trials if trial.digest not in record.repeated]
    for digest, accuracy in repeat(trials, number, longer).items():
        if longer == 1:
            record.usual[digest].append(accuracy)
        else:
            record.longer.setdefault(longer, {})[digest] = accuracy


@contextlib.contextmanager
def _repeater(stage: Stage, evaluator: Evaluator) -> Iterator[Repeater]:
    """Yield a function that evaluates trials again and records them, or returns what is recorded."""
    study = stage.study
    with contextlib.ExitStack() as stack:

        @cache
        def executor() -> Executor:
            made = stage.executor() or InProcessExecutor(evaluator)
            stack.callback(made.close)
            return made

        def repeat(trials: Sequence[Trial], number: int, longer: int) -> dict[str, float]:
            seed = stage.seed + number
            missing = [trial for trial in trials if (trial.digest, seed, longer) not in study.repeats]
            if missing:
                _evaluate(stage, executor(), missing, seed, longer)
            found = [study.repeats[trial.digest, seed, longer] for trial in trials]
            new = [each for each in found if longer != 1 or each.after == study.count]
            return {each.repeat_of: each.curve[-1] for each in new if not each.error}

        yield repeat


def _evaluate(stage: Stage, executor: Executor, trials: Sequence[Trial], seed: int, longer: int) -> None:
    """Evaluate trials and record each as soon as it is finished."""
    study, reporter = stage.study, stage.reporter
    tasks = [Task(trial.architecture, seed, max(1, longer)) for trial in trials]
    length = f", {longer} times as long" if longer > 1 else ""
    with reporter.task("evaluating finalists again", len(tasks)) as advance:
        for outcome in evaluate_all(executor, tasks):
            digest, error = outcome.task.architecture.digest, outcome.error
            study.record_repeat(Repeat(digest, seed, longer, study.count, () if error else outcome.curve, error))
            result = f"failed: {error}" if error else f"{outcome.curve[-1]:.1%}"
            reporter.say(f"finalist {digest} again with seed {seed}{length}: {result}")
            advance(1)
