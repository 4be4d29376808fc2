"""Every distinct network once, in random order: the answer where a space is small enough to try it all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.seen_networks import SeenNetworks
from nas.errors import UsageError
from nas.spaces.encoding import Choices, EncodedSpace, Indices

LARGEST = 1_000_000


class ExhaustiveController:
    """Every distinct network once, in random order; for a million candidates at most.

    Draws from the networks that are left and that the objective admits; where none is left, any candidate.
    """

    def __init__(self, problem: Problem):
        self.check(problem.domain)
        self._problem = problem
        self._told: list[Choices] = []
        self._left: NDArray[np.bool_] | None = None

    @staticmethod
    def check(domain: EncodedSpace) -> None:
        """Raise UsageError where there are too many candidates."""
        if domain.size > LARGEST:
            raise UsageError(
                f"--controller exhaustive: the space has {domain.size:,} candidates, it is for {LARGEST:,} at most"
            )

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return one of the networks that are left, by the seed."""
        self._left = np.ones(len(self._rows), np.bool_) if self._left is None else self._left
        self._left[self._places(self._told)] = False
        self._told = []
        left = self._left.copy()
        left[self._places(pending)] = False
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        if not left.any():
            return domain.decode(domain.sample(1, rng)[0])
        return domain.decode(self._rows[rng.choice(np.flatnonzero(left))])

    def tell(self, told: Observation) -> None:
        """Leave the network out from now on, however it is spelled, and also where it failed."""
        self._told.append(told.choices)

    @cached_property
    def _rows(self) -> Indices:
        return SeenNetworks(self._problem).fresh(self._problem.domain.all_rows())

    @cached_property
    def _place(self) -> dict[Any, int]:
        """Where the network of each key stands among the rows."""
        keys = self._problem.domain.facts(self._rows).keys.tolist()
        return {key: place for place, key in enumerate(keys)}

    def _places(self, candidates: Sequence[Choices]) -> list[int]:
        if not candidates:
            return []
        domain = self._problem.domain
        keys = domain.facts(np.array([domain.encode(choices) for choices in candidates])).keys.tolist()
        return [self._place[key] for key in keys if key in self._place]
