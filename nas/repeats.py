"""Before a winner is named, the best few are evaluated again: other seeds, then longer, the better half each time.

Candidates are told apart by single evaluations, which are noisy: the best of many is partly lucky. Its repeats tell
how noisy, who else could be the best, and what to believe of each (`nas.shrinkage`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from nas.errors import RunError, reason
from nas.evaluators import Evaluator
from nas.objective import Goal, preference
from nas.progress import Reporter
from nas.search import follow
from nas.shrinkage import Spread, fit
from nas.study import Repeat, Study, Trial

FEWEST = 2
TRAINED = 0
"""`longer` of a repeat that was trained, in a search whose evaluator trains nobody."""
Again = Callable[[Trial, int, int], float | None]
"""(trial, round from 1, how many times the epochs) -> accuracy, or None where it failed or was known before."""


@dataclass
class Known:
    """The accuracies of every finished trial by digest: as long as in the search, and longer by how many times."""

    usual: dict[str, list[float]]
    longer: dict[int, dict[str, float]] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    """Who was evaluated again, in the order in which they were taken up."""

    @property
    def spread(self) -> Spread | None:
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
class Finals:
    """What the stage found: `estimates` of every finished trial by digest, and those that were evaluated again."""

    spread: Spread | None
    estimates: dict[str, float]
    finalists: tuple[str, ...]


def evaluate_finalists(
    study: Study,
    evaluator: Evaluator,
    goal: Goal,
    seed: int,
    most: int,
    rounds: int,
    reporter: Reporter,
) -> Finals:
    """Evaluate the best trials again, `most` at most, in `rounds` rounds (0: not at all); return what to believe.

    The first round evaluates the best two with another seed; then whoever the noise so found lets be as good as the
    best. Each further round takes the better half, two at least, with another seed and, where the evaluator has
    `longer(times)`, twice as long as the round before. Everything is recorded when it is finished, and decided from
    what was known before the stage and what it did itself, in order: a stage that was killed ends as if it had not
    been. An evaluator that says `deterministic` has nothing to repeat.
    """
    known = Known(study.accuracies(before=study.count))
    trials = within(study, goal)
    if rounds == 0 or most < FEWEST or len(trials) < FEWEST or getattr(evaluator, "deterministic", False):
        return Finals(None, known.estimates(), ())
    again = _recorded(study, {1: evaluator}, seed, reporter)
    chosen = best_of(trials, known, goal)[:FEWEST]
    repeat(chosen, known, again, 1)
    others = contenders(trials, known, goal)[: most - len(chosen)]
    repeat(others, known, again, 1)
    chosen += others
    for number in range(2, rounds + 1):
        if (spread := known.spread) is None or spread.noise == 0:
            break
        chosen = best_of(chosen, known, goal)[: max(FEWEST, len(chosen) // 2)]
        repeat(chosen, known, again, number, 2 ** (number - 1) if hasattr(evaluator, "longer") else 1)
    return Finals(known.spread, known.estimates(), tuple(known.again))


def train_finalists(
    study: Study,
    trainer: Evaluator,
    goal: Goal,
    seed: int,
    most: int,
    rounds: int,
    reporter: Reporter,
) -> Finals:
    """Train the best `most` trials by `trainer`, then the better half with another seed, in `rounds` rounds.

    For searches by shared weights or scores, which rank but do not train (MnasNet, section 5, trains its top 15). What
    is believed of a finalist is the mean of its trainings. Recorded as `evaluate_finalists` does.
    """
    again = _recorded(study, {TRAINED: trainer}, seed, reporter)
    chosen, reached = within(study, goal)[:most], dict[str, list[float]]()

    def key(trial: Trial) -> float:
        accuracy = fmean(reached[trial.digest])
        return -goal.score(replace(trial.metrics, accuracy=accuracy))

    for number in range(1, rounds + 1):
        for trial in chosen:
            accuracy = again(trial, number, TRAINED)
            if accuracy is not None:
                reached.setdefault(trial.digest, []).append(accuracy)
        trained = [trial for trial in chosen if trial.digest in reached]
        chosen = sorted(trained, key=key)[: max(FEWEST, len(chosen) // 2)]
    believed = {digest: values[0] for digest, values in study.accuracies().items()}
    believed |= {digest: fmean(values) for digest, values in reached.items()}
    return Finals(fit(list(reached.values())), believed, tuple(reached))


def within(study: Study, goal: Goal) -> list[Trial]:
    """Return the finished trials that hold the target by prediction, the best first."""
    return sorted(
        (trial for trial in study.trials if goal.holds(trial.metrics)),
        key=lambda trial: preference(goal, trial.metrics),
    )


def best_of(trials: Sequence[Trial], known: Known, goal: Goal) -> list[Trial]:
    """Return the trials, the best by estimate first."""
    estimates = known.estimates()
    return sorted(
        trials,
        key=lambda trial: -goal.score(replace(trial.metrics, accuracy=estimates[trial.digest])),
    )


def contenders(trials: Sequence[Trial], known: Known, goal: Goal) -> list[Trial]:
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


def repeat(trials: Sequence[Trial], known: Known, again: Again, number: int, longer: int = 1) -> None:
    """Evaluate trials again in round `number` and add what is new to what is known."""
    for trial in trials:
        digest = trial.digest
        if digest not in known.again:
            known.again.append(digest)
        accuracy = again(trial, number, longer)
        if accuracy is None:
            continue
        if longer == 1:
            known.usual[digest].append(accuracy)
        else:
            known.longer.setdefault(longer, {})[digest] = accuracy


def _recorded(study: Study, made: dict[int, Any], seed: int, reporter: Reporter) -> Again:
    """Return a function that evaluates again and records it, or takes what is recorded; `made` are evaluators."""

    def again(trial: Trial, number: int, longer: int) -> float | None:
        digest = trial.digest
        found = study.repeats.get((digest, seed + number, longer))
        if found is None:
            if longer not in made:
                made[longer] = made[1].longer(longer)
            found = _evaluate(study, made[longer], trial, seed + number, longer)
            length = f", {longer} times as long" if longer > 1 else ""
            outcome = f"failed: {found.error}" if found.error else f"{found.curve[-1]:.1%}"
            reporter.say(f"finalist {digest} again with seed {found.seed}{length}: {outcome}")
        counted = longer == 1 and found.after < study.count
        return None if counted or found.error else found.curve[-1]

    return again


def _evaluate(study: Study, evaluator: Evaluator, trial: Trial, seed: int, longer: int) -> Repeat:
    curve: tuple[float, ...] = ()
    error: str | None = None
    try:
        curve, _ = follow(evaluator.evaluate(trial.architecture, seed), lambda _: False)
    except RunError:
        raise
    except Exception as raised:
        error = reason(raised)
    repeated = Repeat(trial.digest, seed, longer, study.count, curve, error)
    study.record_repeat(repeated)
    return repeated
