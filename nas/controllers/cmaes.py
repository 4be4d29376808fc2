"""CMA-ES with margin (Hamano et al. 2022) over the ordinal choices: those whose values are all numbers or booleans.

A choice with a word among its values is nominal, so a Gaussian does not fit it. It takes its value from a random member
of the better half of the last generation, or a random value one time in five. If the objective has several values, the
score is maximized.

A generation is a fixed number of trials, whether this controller proposed them or not. Each counts as a point with its
own indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.errors import UsageError
from nas.spaces.encoding import Choices, EncodedSpace, Floats, Indices, Integers
from nas.study.trials import Trial

EXPLORE = 0.2
TRIES = 16
"""Points drawn for each proposal. The first fresh one is proposed."""


class CMAESController:
    """CMA-ES with margin (Hamano et al. 2022) over choices between numbers.

    A point contains the rank of each ordinal value, scaled to the unit cube. So one step size serves choices with two
    values and choices with ten.
    """

    def __init__(self, problem: Problem):
        self.check(problem.domain)
        from cmaes import CMAwM

        self._problem, self._seen = problem, SeenNetworks(problem)
        values = list(problem.domain.choices.values())
        self._ordinal = np.flatnonzero([_is_ordinal(each) for each in values])
        self._nominal = np.setdiff1d(np.arange(len(values)), self._ordinal)
        self._order = [np.argsort(values[choice]) for choice in self._ordinal]
        top = problem.domain.widths[self._ordinal] - 1.0
        bounds = np.stack([np.zeros(len(top)), top], axis=1)
        self._cma = CMAwM(np.full(len(top), 0.5), 0.3, bounds / top[:, None], 1.0 / top, seed=0)
        self._top = top
        self._generation: list[tuple[Indices, float]] = []
        self._parents: Indices = np.zeros((0, len(values)), np.int16)

    @staticmethod
    def check(domain: EncodedSpace) -> None:
        """Raise UsageError if there are fewer than two ordinal choices, or if the library is missing."""
        count = sum(map(_is_ordinal, domain.choices.values()))
        if count < 2:
            rule = f"needs at least two choices between numbers, the space has {count}"
            raise UsageError(rule, key="controller", value="cmaes")
        try:
            import cmaes  # noqa: F401
        except ImportError:
            rule = "needs the package cmaes: pip install 'hwnas[cmaes]'"
            raise UsageError(rule, key="controller", value="cmaes") from None

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a candidate drawn from the distribution: the first fresh one of 16, or the first if none is fresh."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        self._cma.reseed_rng(seed)
        points = np.array([self._cma.ask()[0] for _ in range(TRIES)])
        rows = domain.random_rows(TRIES, rng)
        for column, (choice, order) in enumerate(zip(self._ordinal, self._order, strict=True)):
            rows[:, choice] = order[np.rint(points[:, column] * self._top[column]).astype(int)]
        if len(self._parents) and len(self._nominal):
            drawn = self._parents[rng.integers(0, len(self._parents), (TRIES, len(self._nominal))), self._nominal]
            inherits = (rng.random(drawn.shape) >= EXPLORE) & (drawn >= 0)
            rows[:, self._nominal] = np.where(inherits, drawn, rows[:, self._nominal])
        rows = domain.activate(rows)
        fresh = self._seen.fresh(rows, pending)
        return domain.decode(fresh[0] if len(fresh) else rows[0])

    def tell(self, trial: Trial) -> None:
        """Add a trial to the generation. A complete generation moves the distribution."""
        row, score = self._seen.add(trial.choices), scalar_score(self._problem, trial)
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
        """Return a point, (ordinal choices,), for the row, (choices,), with this number in its generation.

        The point is random within the cell of the row's indices, like a drawn point. If it were the center of the
        cell, the distribution would narrow too soon. Inactive choices are drawn from the distribution itself.
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
