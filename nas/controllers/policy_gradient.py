"""Policy-gradient search with a recurrent policy: the part that REINFORCE and PPO share.

They differ in how a batch of rewards updates the policy. If the objective has several values, its score is the reward.
Failed trials are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Floats, Indices
from nas.study.trials import Trial

LEARNING_RATE, DECAY = 0.01, 0.9
Update = Callable[[Any, Any, Indices, Floats, float], None]
"""Updates a Policy with its optimizer, given rows, (N, choices), their rewards, (N,), and the baseline."""


class PolicySearch:
    """Draws candidates from a policy and updates it after every batch.

    Args:
        problem: The candidates and the objective.
        batch: The number of trials for one update.
        update: Updates the policy. Its baseline is a moving mean of earlier batches' rewards.
    """

    def __init__(self, problem: Problem, batch: int, update: Update):
        import torch

        from nas.controllers.recurrent_policy import Policy

        self._problem, self._seen, self._size, self._update = problem, SeenNetworks(problem), batch, update
        self._policy = Policy(problem.domain)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), LEARNING_RATE)
        self._batch: list[tuple[Indices, float]] = []
        self._baseline: float | None = None

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a candidate drawn from the policy: the first fresh one of eight, or the first if none is fresh."""
        rows = self._policy.sample(seed)
        fresh = self._seen.fresh(rows, pending)
        return self._problem.domain.decode(fresh[0] if len(fresh) else rows[0])

    def tell(self, trial: Trial) -> None:
        """Add the reward of a trial. A complete batch updates the policy."""
        row, reward = self._seen.add(trial.choices), scalar_score(self._problem, trial)
        if reward is not None:
            self._batch.append((row, reward))
        if len(self._batch) == self._size:
            rows, rewards = map(np.array, zip(*self._batch, strict=True))
            mean = float(rewards.mean())
            baseline = mean if self._baseline is None else self._baseline
            self._update(self._policy, self._optimizer, rows, rewards, baseline)
            self._baseline = DECAY * baseline + (1 - DECAY) * mean
            self._batch = []
