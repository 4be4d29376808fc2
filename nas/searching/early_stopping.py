"""Early stopping of trainings: successive halving, decided candidate by candidate, and Hyperband.

A rung is a number of epochs. A candidate that reaches a rung continues if it is among the best 1/eta of all candidates
that have reached it so far. This is asynchronous successive halving (Li et al. 2020, algorithm 2) as a stopping rule:
no candidate waits at a rung, and no stopped candidate resumes. So trainings can run one at a time, and a search needs
no checkpoints.

The objective compares candidates by their accuracy at the rung; their latency is known before. A decision depends only
on the curves of earlier candidates, so a search that resumes after a kill repeats its decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from nas.errors import UsageError
from nas.study.objectives import Objective
from nas.study.ranking import position
from nas.study.trials import Trial


@dataclass(frozen=True)
class Rungs:
    """The stopping rule.

    Attributes:
        eta: At each rung, the best 1/eta continue.
        epochs: The epochs of a full training.
        cycle: Tuples of rungs, in epochs. Candidate i has the rungs `cycle[i % len(cycle)]`.
    """

    eta: int
    epochs: int
    cycle: tuple[tuple[int, ...], ...]

    def of(self, number: int) -> tuple[int, ...]:
        """Return the rungs of the candidate `number`."""
        return self.cycle[number % len(self.cycle)]

    def stops(self, trial: Trial, others: Iterable[Trial], objective: Objective) -> bool:
        """Whether a trial ends after the epochs of its curve. It competes with those of `others` that share its rungs.

        Of n candidates that have reached the rung, this one included, max(1, floor(n / eta)) continue, and so do all
        that equal the last of them. The best score so far always continues. So the first candidate continues, and at
        least one candidate completes.
        """
        reached = len(trial.curve)
        rungs = self.of(trial.number)
        if reached not in rungs:
            return False
        competitors = [other for other in others if len(other.curve) >= reached and self.of(other.number) == rungs]
        points = [each.metrics_after(reached) for each in (trial, *competitors)]
        return position(objective, points, 0) >= max(1, len(points) // self.eta)


def make_rungs(fidelity: str, eta: int, min_epochs: int, epochs: int) -> Rungs:
    """Return the stopping rule of a fidelity, with rungs at min_epochs * eta^k epochs.

    Hyperband (Li et al. 2018, algorithm 1) does not rely on any one lowest rung. With S rungs it has S + 1 brackets:
    the rungs of the first bracket begin at the first rung, those of the second at the second, and so on; the last
    bracket has none. A bracket of s rungs gets ceil((S + 1) / (s + 1) * eta^s) candidates of each cycle, spread evenly.

    Args:
        fidelity: "full" (no rungs), "halving" or "hyperband".
        eta: At each rung, the best 1/eta continue.
        min_epochs: The first rung.
        epochs: The epochs of a full training; all rungs are below it.

    Raises:
        UsageError: There is no rung below `epochs`.
    """
    if fidelity == "full":
        return Rungs(eta, epochs, ((),))
    levels = _levels(eta, min_epochs, epochs)
    if not levels:
        rule = f"must be below the {epochs} epochs of a full training"
        raise UsageError(rule, key="min_epochs", value=min_epochs)
    if fidelity == "halving":
        return Rungs(eta, epochs, (levels,))
    brackets = len(levels) + 1
    places: list[tuple[float, tuple[int, ...]]] = []
    for start in range(brackets):
        rungs = levels[start:]
        size = ceil(brackets / (len(rungs) + 1) * eta ** len(rungs))
        places += [((index + 0.5) / size, rungs) for index in range(size)]
    return Rungs(eta, epochs, tuple(rungs for _, rungs in sorted(places, key=lambda place: place[0])))


def _levels(eta: int, min_epochs: int, epochs: int) -> tuple[int, ...]:
    levels = []
    while min_epochs < epochs:
        levels.append(min_epochs)
        min_epochs *= eta
    return tuple(levels)


def spent(curves: Iterable[Sequence[float]]) -> int:
    """Return the total epochs of the curves."""
    return sum(len(curve) for curve in curves)
