"""When to stop a training early: successive halving, decided candidate by candidate, and Hyperband's brackets.

A rung is a number of epochs. Whoever reaches it goes on if it is among the best 1/eta of all that reached it so far
(asynchronous successive halving, Li et al. 2020, algorithm 2, as a rule to stop: nobody waits at a rung and nobody is
taken up again, so that one training runs at a time and a search needs no checkpoints). Candidates are compared by the
search's objective at the accuracy of that rung; their latency is known beforehand. What is decided depends on the
curves of earlier candidates alone, so a search that was killed decides again as it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from nas.errors import UsageError
from nas.study.objectives import Metrics, Objective
from nas.study.ranking import position


@dataclass(frozen=True)
class Entry:
    """A candidate as the rungs see it: its place in the search from 0, accuracy after each epoch, and its costs.

    The accuracy in `metrics` is not read.
    """

    number: int
    curve: tuple[float, ...]
    metrics: Metrics

    def at(self, epochs: int) -> Metrics:
        """Return its metrics after that many epochs."""
        return replace(self.metrics, accuracy=self.curve[epochs - 1])


@dataclass(frozen=True)
class Rungs:
    """The rule. Candidate i meets the rungs of `cycle[i % len(cycle)]`, in epochs; a full training has `epochs`."""

    eta: int
    epochs: int
    cycle: tuple[tuple[int, ...], ...]

    def of(self, number: int) -> tuple[int, ...]:
        """Return the rungs of the candidate `number`."""
        return self.cycle[number % len(self.cycle)]

    def stops(self, entry: Entry, others: Iterable[Entry], objective: Objective) -> bool:
        """Whether `entry` ends after the epochs of its curve. Only `others` of the same rungs are its competitors.

        Of n that reached the rung, itself included, max(1, floor(n / eta)) go on; so do those that equal them. The
        best score so far always goes on, hence the first candidate does, and something always finishes.
        """
        reached = len(entry.curve)
        mine = self.of(entry.number)
        if reached not in mine:
            return False
        competitors = [other for other in others if len(other.curve) >= reached and self.of(other.number) == mine]
        points = [entry.at(reached), *(other.at(reached) for other in competitors)]
        return position(objective, points, 0) >= max(1, len(points) // self.eta)


def make_rungs(fidelity: str, eta: int, min_epochs: int, epochs: int) -> Rungs:
    """Return the rungs at min_epochs * eta^k below `epochs`, of the fidelity "full" (none), "halving" or "hyperband".

    Hyperband (Li et al. 2018, algorithm 1) does not know which rung tells: with S rungs it has S + 1 brackets, whose
    rungs begin at the first, the second, ... and the last of which stops nobody. The bracket of s rungs gets
    ceil((S + 1) / (s + 1) * eta^s) candidates of each cycle, spread evenly. Raises UsageError where there is no rung.
    """
    if fidelity == "full":
        return Rungs(eta, epochs, ((),))
    levels = _levels(eta, min_epochs, epochs)
    if not levels:
        raise UsageError(f"--min-epochs: must be below the {epochs} epochs of a full training: {min_epochs}")
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
    """Return the epochs of all curves together."""
    return sum(len(curve) for curve in curves)
