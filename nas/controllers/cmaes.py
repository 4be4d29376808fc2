"""CMA-ES with margin (Hamano et al. 2022) over the ordinal choices: those whose values are all numbers, in order.

Truth counts as 0 and 1. A choice between words is no place for a Gaussian; it takes its value in one of the better
half of the last generation, and one time in five any. Where the objective has several values, its score is maximised.

A generation is so many candidates that were told, whoever asked for them: each counts as a point of its own indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.errors import UsageError
from nas.spaces.encoding import Choices, EncodedSpace, Floats, Indices, Integers

EXPLORE = 0.2
TRIES = 16
"""Points drawn for one candidate, to find one that is fresh."""


class CMAESController:
    """CMA-ES with margin (Hamano et al. 2022) over choices between numbers.

    A point has the rank of each ordinal value, scaled to the unit cube: one step size serves choices of two values
    and of ten.
    """

    def __init__(self, problem: Problem):
        self.check(problem.domain)
        from cmaes import CMAwM

        self._problem, self._known = problem, SeenNetworks(problem)
        values = list(problem.domain.choices.values())
        self._ordinal = np.flatnonzero([_is_ordinal(each) for each in values])
        self._named = np.setdiff1d(np.arange(len(values)), self._ordinal)
        self._order = [np.argsort(values[place]) for place in self._ordinal]
        top = problem.domain.widths[self._ordinal] - 1.0
        bounds = np.stack([np.zeros(len(top)), top], axis=1)
        self._cma = CMAwM(np.full(len(top), 0.5), 0.3, bounds / top[:, None], 1.0 / top, seed=0)
        self._top = top
        self._generation: list[tuple[Indices, float]] = []
        self._parents: Indices = np.zeros((0, len(values)), np.int16)

    @staticmethod
    def check(domain: EncodedSpace) -> None:
        """Raise UsageError where fewer than two choices are ordinal, or the library is missing."""
        count = sum(map(_is_ordinal, domain.choices.values()))
        if count < 2:
            raise UsageError(f"--controller cmaes: needs two choices between numbers at least, the space has {count}")
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise UsageError("--controller cmaes: needs cmaes: pip install 'hwnas[cmaes]'") from None

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a point of the distribution by the seed, with the choices between words; fresh if one of 16 is."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        self._cma.reseed_rng(seed)
        points = np.array([self._cma.ask()[0] for _ in range(TRIES)])
        rows = domain.random_rows(TRIES, rng)
        for column, (place, order) in enumerate(zip(self._ordinal, self._order, strict=True)):
            rows[:, place] = order[np.rint(points[:, column] * self._top[column]).astype(int)]
        if len(self._parents) and len(self._named):
            drawn = self._parents[rng.integers(0, len(self._parents), (TRIES, len(self._named))), self._named]
            inherits = (rng.random(drawn.shape) >= EXPLORE) & (drawn >= 0)
            rows[:, self._named] = np.where(inherits, drawn, rows[:, self._named])
        rows = domain.activate(rows)
        fresh = self._known.fresh(rows, pending)
        return domain.decode(fresh[0] if len(fresh) else rows[0])

    def tell(self, told: Observation) -> None:
        """Add a point to the generation; when it is whole, the distribution moves."""
        row, score = self._known.add(told.choices), scalar_score(self._problem, told)
        if score is None:
            return
        self._generation.append((row, score))
        if len(self._generation) == self._cma.population_size:
            ranked = sorted(self._generation, key=lambda pair: -pair[1])
            self._parents = np.array([row for row, _ in ranked[: len(ranked) // 2]])
            points = [self._point(row, number) for number, (row, _) in enumerate(self._generation)]
            self._cma.tell([(point, -score) for point, (_, score) in zip(points, self._generation, strict=True)])
            self._generation = []

    def _point(self, row: Indices, number: int) -> Floats:
        """Return a point, (ordinal choices,), that stands for a row, (choices,), the `number`-th of its generation.

        It lies anywhere in the cell of the row's indices, as a drawn point would; at the cells' middles the
        distribution would narrow too soon. Where a choice is inactive it is drawn from the distribution itself.
        """
        ranks: list[Integers] = [np.argsort(order) for order in self._order]
        given = row[self._ordinal]
        points = np.array([rank[index] for rank, index in zip(ranks, given, strict=True)])
        rng = np.random.default_rng([self._cma.generation, number])
        points = points + rng.uniform(-0.5, 0.5, len(points))
        self._cma.reseed_rng(int(rng.integers(1 << 31)))
        point: Floats = np.where(given >= 0, points / self._top, self._cma.ask()[1])
        return point


def _is_ordinal(values: tuple[Scalar, ...]) -> bool:
    return len(values) > 1 and not any(isinstance(value, str) for value in values)
