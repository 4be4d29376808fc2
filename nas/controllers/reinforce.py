"""REINFORCE with a moving baseline over a recurrent policy (Williams 1992; Zoph and Le 2017, section 3.2).

Where the objective has several values, its score is the reward. A candidate that was told and never asked for (a
random one, an earlier run's, a reference network) moves the policy by its log-probability like any other, though it
was not drawn from it; one that failed moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.known import Known, worth
from nas.domain import Choices
from nas.problem import Problem, Told

LEARNING_RATE, ENTROPY, DECAY = 0.01, 1e-3, 0.9
BATCH = 4
"""Candidates for one step of the policy."""


class ReinforceController:
    """REINFORCE (Zoph and Le 2017): a recurrent policy over the choices, which steps after every four candidates."""

    def __init__(self, problem: Problem):
        import torch

        from nas.controllers.policy import Policy

        self._problem, self._known = problem, Known(problem)
        self._policy = Policy(problem.domain)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), LEARNING_RATE)
        self._batch: list[tuple[Choices, float]] = []
        self._baseline: float | None = None

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a candidate that the policy draws by the seed; fresh if one of eight is."""
        rows = self._policy.sample(seed)
        fresh = self._known.fresh(rows, pending)
        return self._problem.domain.decode(fresh[0] if len(fresh) else rows[0])

    def tell(self, told: Told) -> None:
        """Take in the reward of a candidate; a whole batch moves the policy."""
        self._known.add(told.choices)
        reward = worth(self._problem, told)
        if reward is not None:
            self._batch.append((told.choices, reward))
        if len(self._batch) == BATCH:
            self._step()
            self._batch = []

    def _step(self) -> None:
        import torch

        rewards = np.array([reward for _, reward in self._batch])
        self._baseline = rewards.mean() if self._baseline is None else self._baseline
        advantages = torch.tensor(rewards - self._baseline, dtype=torch.float32)
        rows = np.array([self._problem.domain.encode(choices) for choices, _ in self._batch])
        logs, entropy = self._policy(rows)
        loss = -(advantages.to(logs) * logs).mean() - ENTROPY * entropy.mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._baseline = DECAY * self._baseline + (1 - DECAY) * float(rewards.mean())
