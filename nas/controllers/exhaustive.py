"""Exhaustive search: every distinct network once, in random order. Use it if a space is small enough."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.seen_networks import SeenNetworks, network_keys
from nas.errors import UsageError
from nas.spaces.encoding import Choices, EncodedSpace, Indices
from nas.study.trials import Trial

LARGEST = 1_000_000


class ExhaustiveController:
    """Every distinct network once, in random order; for spaces of at most a million candidates.

    It draws from the untried networks that the objective admits; if none is left, from all candidates.
    """

    def __init__(self, problem: Problem):
        self.check(problem.domain)
        self._problem = problem
        self._new: list[Choices] = []
        self._untried: NDArray[np.bool_] | None = None

    @staticmethod
    def check(domain: EncodedSpace) -> None:
        """Raise UsageError if there are too many candidates."""
        if domain.size > LARGEST:
            rule = f"needs a space of at most {LARGEST:,} candidates, this one has {domain.size:,}"
            raise UsageError(rule, key="controller", value="exhaustive")

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a random untried network."""
        self._untried = np.ones(len(self._rows), np.bool_) if self._untried is None else self._untried
        self._untried[self._indices(self._new)] = False
        self._new = []
        left = self._untried.copy()
        left[self._indices(pending)] = False
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        if not left.any():
            return domain.decode(domain.sample(1, rng)[0])
        return domain.decode(self._rows[rng.choice(np.flatnonzero(left))])

    def tell(self, trial: Trial) -> None:
        """Exclude the network of a trial, also if it failed and whatever choices give it."""
        self._new.append(trial.choices)

    @cached_property
    def _rows(self) -> Indices:
        return SeenNetworks(self._problem).fresh(self._problem.domain.all_rows())

    @cached_property
    def _index(self) -> dict[Any, int]:
        """The index of each network among the rows, by its key."""
        keys = self._problem.domain.facts(self._rows).keys.tolist()
        return {key: index for index, key in enumerate(keys)}

    def _indices(self, candidates: Sequence[Choices]) -> list[int]:
        keys = network_keys(self._problem.domain, candidates)
        return [self._index[key] for key in keys if key in self._index]
