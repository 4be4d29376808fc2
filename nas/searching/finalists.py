"""Before a winner is named, the best few are evaluated again: other seeds, then longer, the better half each time.

Candidates are told apart by single evaluations, which are noisy: the best of many is partly lucky. Its repeats tell
how noisy, who else could be the best, and what to believe of each (`nas.study.evaluation_noise`).
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
from nas.study.study import Repeat, Study, Trial
from nas.utils.reporting import Reporter

FEWEST = 2
TRAINED = 0
"""`longer` of a repeat that was trained, in a search whose evaluator trains nobody."""
Again = Callable[[Sequence[Trial], int, int], dict[str, float]]
"""(trials, round from 1, how many times the epochs) -> accuracies by digest, but for what failed or was known."""


@dataclass
class AccuracyRecord:
    """The accuracies of every finished trial by digest: as long as in the search, and longer by how many times."""

    usual: dict[str, list[float]]
    longer: dict[int, dict[str, float]] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    """Who was evaluated again, in the order in which they were taken up."""

    @property
    def spread(self) -> NoiseModel | None:
        """The noise and the spread that evaluations of the usual length tell; None before any repeat."""
        return fit(list(self.usual.values()))

    def estimates(self) -> dict[str, float]:
        """Return the accuracy to believe of each trial, as that of an evaluation of the usual length.

        An evaluation that is k times as long counts as another one of the usual length, once the mean gain of all
        that were evaluated so long is taken off: it tells them apart, not by how much training helps everybody.
        """
        spread = self.spread
        if spread is None:
            return {digest: accuracies[0] for digest, accuracies in self.usual.items()}
        first = {digest: spread.estimate(accuracies) for digest, accuracies in self.usual.items()}
        values = {digest: list(accuracies) for digest, accuracies in self.usual.items()}
        for reached in self.longer.values():
            gain = fmean(accuracy - first[digest] for digest, accuracy in reached.items())
            for digest, accuracy in reached.items():
                values[digest].append(accuracy - gain)
        return {digest: spread.estimate(accuracies) for digest, accuracies in values.items()}


@dataclass(frozen=True)
class FinalistEstimates:
    """What the stage found: `estimates` of every finished trial by digest, and those that were evaluated again."""

    spread: NoiseModel | None
    estimates: dict[str, float]
    finalists: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """At most `most` trials of a search are evaluated again, in `rounds` rounds, with other seeds than `seed`.

    What `executor` makes evaluates them, as many at once as it has slots; where it gives None, this process does.
    """

    study: Study
    goal: Goal
    seed: int
    most: int
    rounds: int
    reporter: Reporter
    executor: Callable[[], Executor | None] = lambda: None


def evaluate_finalists(stage: Stage, evaluator: Evaluator) -> FinalistEstimates:
    """Evaluate the best trials again and return what to believe; with no rounds, nobody.

    The first round evaluates the best two with another seed; then whoever the noise so found lets be as good as the
    best. Each further round takes the better half, two at least, with another seed and, where the evaluator has
    `longer(times)`, twice as long as the round before. Everything is recorded when it is finished, and decided from
    what was known before the stage and what it did itself, in order: a stage that was killed ends as if it had not
    been. An evaluator that says `deterministic` has nothing to repeat.
    """
    study, goal = stage.study, stage.goal
    known = AccuracyRecord(study.accuracies(before=study.count))
    trials = within(study, goal)
    exact = getattr(evaluator, "deterministic", False)
    if stage.rounds == 0 or stage.most < FEWEST or len(trials) < FEWEST or exact:
        return FinalistEstimates(None, known.estimates(), ())
    with _again(stage, evaluator) as again:
        chosen = best_of(trials, known, goal)[:FEWEST]
        repeat(chosen, known, again, 1)
        others = contenders(trials, known, goal)[: stage.most - len(chosen)]
        repeat(others, known, again, 1)
        chosen += others
        for number in range(2, stage.rounds + 1):
            if (spread := known.spread) is None or spread.noise == 0:
                break
            chosen = best_of(chosen, known, goal)[: max(FEWEST, len(chosen) // 2)]
            repeat(chosen, known, again, number, 2 ** (number - 1) if hasattr(evaluator, "longer") else 1)
    return FinalistEstimates(known.spread, known.estimates(), tuple(known.again))


def train_finalists(stage: Stage, trainer: Evaluator) -> FinalistEstimates:
    """Train the best trials by `trainer`, then the better half with another seed, in each round.

    For searches by shared weights or scores, which rank but do not train (MnasNet, section 5, trains its top 15). What
    is believed of a finalist is the mean of its trainings. Recorded as `evaluate_finalists` does.
    """
    study, goal = stage.study, stage.goal
    chosen, reached = within(study, goal)[: stage.most], dict[str, list[float]]()

    def key(trial: Trial) -> float:
        accuracy = fmean(reached[trial.digest])
        return -goal.score(replace(trial.metrics, accuracy=accuracy))

    with _again(stage, trainer) as again:
        for number in range(1, stage.rounds + 1):
            for digest, accuracy in again(chosen, number, TRAINED).items():
                reached.setdefault(digest, []).append(accuracy)
            trained = [trial for trial in chosen if trial.digest in reached]
            chosen = sorted(trained, key=key)[: max(FEWEST, len(chosen) // 2)]
    believed = {digest: values[0] for digest, values in study.accuracies().items()}
    believed |= {digest: fmean(values) for digest, values in reached.items()}
    return FinalistEstimates(fit(list(reached.values())), believed, tuple(reached))


def within(study: Study, goal: Goal) -> list[Trial]:
    """Return the finished trials that hold the target by prediction, the best first."""
    return sorted(
        (trial for trial in study.trials if goal.holds(trial.metrics)),
        key=lambda trial: preference(goal, trial.metrics),
    )


def best_of(trials: Sequence[Trial], known: AccuracyRecord, goal: Goal) -> list[Trial]:
    """Return the trials, the best by estimate first."""
    estimates = known.estimates()
    return sorted(
        trials,
        key=lambda trial: -goal.score(replace(trial.metrics, accuracy=estimates[trial.digest])),
    )


def contenders(trials: Sequence[Trial], known: AccuracyRecord, goal: Goal) -> list[Trial]:
    """Return the trials not yet evaluated again that the noise lets be as good as the best, the best first."""
    spread = known.spread
    if spread is None:
        return []
    estimates = known.estimates()

    def score(trial: Trial, more: float = 0.0) -> float:
        return goal.score(replace(trial.metrics, accuracy=estimates[trial.digest] + more))

    best = max(score(trial) for trial in trials)
    waiting = [trial for trial in trials if trial.digest not in known.again]
    return [trial for trial in best_of(waiting, known, goal) if score(trial, spread.explained()) >= best]


def repeat(trials: Sequence[Trial], known: AccuracyRecord, again: Again, number: int, longer: int = 1) -> None:
    """Evaluate trials again in round `number` and add what is new to what is known."""
    known.again += [trial.digest for trial in trials if trial.digest not in known.again]
    for digest, accuracy in again(trials, number, longer).items():
        if longer == 1:
            known.usual[digest].append(accuracy)
        else:
            known.longer.setdefault(longer, {})[digest] = accuracy


@contextlib.contextmanager
def _again(stage: Stage, evaluator: Evaluator) -> Iterator[Again]:
    """Give a function that evaluates trials again and records it, or takes what is recorded."""
    study = stage.study
    with contextlib.ExitStack() as stack:

        @cache
        def executor() -> Executor:
            made = stage.executor() or InProcessExecutor(evaluator)
            stack.callback(made.close)
            return made

        def again(trials: Sequence[Trial], number: int, longer: int) -> dict[str, float]:
            seed = stage.seed + number
            missing = [trial for trial in trials if (trial.digest, seed, longer) not in study.repeats]
            if missing:
                _evaluate(stage, executor(), missing, seed, longer)
            found = [study.repeats[trial.digest, seed, longer] for trial in trials]
            fresh = [repeat for repeat in found if longer != 1 or repeat.after == study.count]
            return {repeat.repeat_of: repeat.curve[-1] for repeat in fresh if not repeat.error}

        yield again


def _evaluate(stage: Stage, executor: Executor, trials: Sequence[Trial], seed: int, longer: int) -> None:
    """Evaluate trials and record each as soon as it is finished."""
    study, reporter = stage.study, stage.reporter
    tasks = [Task(trial.architecture, seed, max(1, longer)) for trial in trials]
    length = f", {longer} times as long" if longer > 1 else ""
    with reporter.task("finalists again", len(tasks)) as advance:
        for outcome in evaluate_all(executor, tasks):
            digest, error = outcome.task.architecture.digest, outcome.error
            study.record_repeat(Repeat(digest, seed, longer, study.count, () if error else outcome.curve, error))
            told = f"failed: {error}" if error else f"{outcome.curve[-1]:.1%}"
            reporter.say(f"finalist {digest} again with seed {seed}{length}: {told}")
            advance(1)
