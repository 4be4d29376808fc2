"""A search by a recurrent policy: what REINFORCE and PPO share. They differ in how a batch of rewards moves the policy.

Where the search's objective has several values, its score is the reward. A candidate that failed moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Floats, Indices

LEARNING_RATE, DECAY = 0.01, 0.9
Learn = Callable[[Any, Any, Indices, Floats, float], None]
"""Moves a Policy by its optimizer, given rows, (N, choices), their rewards, (N,), and what rewards have been so far."""


class PolicySearch:
    """Draws candidates from a policy, which `learn` moves after every `batch` of them; the baseline is a mean."""

    def __init__(self, problem: Problem, batch: int, learn: Learn):
        import torch

        from nas.controllers.recurrent_policy import Policy

        self._problem, self._known, self._size, self._learn = problem, SeenNetworks(problem), batch, learn
        self._policy = Policy(problem.domain)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), LEARNING_RATE)
        self._batch: list[tuple[Indices, float]] = []
        self._baseline: float | None = None

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a candidate that the policy draws by the seed; fresh if one of eight is."""
        rows = self._policy.sample(seed)
        fresh = self._known.fresh(rows, pending)
        return self._problem.domain.decode(fresh[0] if len(fresh) else rows[0])

    def tell(self, told: Observation) -> None:
        """Take in the reward of a candidate; a whole batch moves the policy."""
        row, reward = self._known.add(told.choices), scalar_score(self._problem, told)
        if reward is not None:
            self._batch.append((row, reward))
        if len(self._batch) == self._size:
            rows, rewards = map(np.array, zip(*self._batch, strict=True))
            mean = float(rewards.mean())
            baseline = mean if self._baseline is None else self._baseline
            self._learn(self._policy, self._optimizer, rows, rewards, baseline)
            self._baseline = DECAY * baseline + (1 - DECAY) * mean
            self._batch = []
