"""Seen networks: filters out candidates that were tried, are pending or are out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.controllers.base import Problem
from nas.spaces.encoding import Choices, EncodedSpace, Indices
from nas.study.trials import Trial, TrialState

DRAWS = (64, 4096)
"""How many random rows to draw for a fresh one: the second number if the first gives none."""


class SeenNetworks:
    """The networks that were tried, by their keys."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._keys: set[Any] = set()
        self._new_rows: list[Indices] = []

    def add(self, choices: Choices) -> Indices:
        """Add a candidate and return its row, (choices,)."""
        row = self._problem.domain.encode(choices)
        self._new_rows.append(row)  # keys are computed together on demand: one at a time is slow
        return row

    def fresh(self, rows: Indices, pending: Sequence[Choices] = ()) -> Indices:
        """Return the rows that are new, not pending and admitted by the objective.

        Args:
            rows: Candidates, (N, choices).
            pending: The choices of the candidates that are being evaluated.

        Returns:
            One row of each network, (M, choices), in the order of `rows`.
        """
        domain, objective = self._problem.domain, self._problem.objective
        if self._new_rows:
            self._keys.update(domain.facts(np.array(self._new_rows)).keys.tolist())
            self._new_rows = []
        if not len(rows):
            return rows
        taken = self._keys | set(network_keys(domain, pending))
        facts = domain.facts(rows)
        kept = []
        admitted = np.broadcast_to(objective.admits(facts.latency_ms), len(rows)).tolist()
        for index, (key, within) in enumerate(zip(facts.keys.tolist(), admitted, strict=True)):
            if within and key not in taken:
                taken.add(key)
                kept.append(index)
        found: Indices = rows[kept]
        return found

    def random(self, rng: np.random.Generator, pending: Sequence[Choices] = ()) -> Indices:
        """Return a random fresh row, (choices,), or any random row if none was found."""
        domain = self._problem.domain
        for count in DRAWS:
            drawn = domain.sample(count, rng)
            drawn = np.concatenate([self.fresh(drawn, pending), drawn])
            if len(drawn) > count:
                break
        row: Indices = drawn[0]
        return row


def network_keys(domain: EncodedSpace, candidates: Sequence[Choices]) -> list[Any]:
    """Return the key of each candidate's network. Choices that give the same network have the same key."""
    if not candidates:
        return []
    keys: list[Any] = domain.facts(np.array([domain.encode(choices) for choices in candidates])).keys.tolist()
    return keys


def scalar_score(problem: Problem, trial: Trial) -> float | None:
    """Return the one number to maximize, also if the objective has several values; None for a failed trial."""
    return None if trial.state is TrialState.FAILED else problem.objective.score(trial.metrics)
