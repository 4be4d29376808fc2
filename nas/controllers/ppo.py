"""Proximal policy optimization over a recurrent policy: MnasNet's controller (Tan et al. 2019, section 4.2).

The clipped objective is that of Schulman et al. (2017, section 3). Where the search's objective has several values,
its score is the reward. The policy stands still within a batch, so that its own probabilities at the batch's end are
those with which the candidates were drawn; one that was told and never asked for (a random one, an earlier run's, a
reference network) counts as if it had been drawn with these. One that failed moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.known import Known, worth
from nas.domain import Choices
from nas.problem import Problem, Told

LEARNING_RATE, DECAY = 0.01, 0.9
ENTROPY = 0.3
"""The weight of a choice's mean entropy beside advantages of unit spread; with little, a policy narrows by luck."""
BATCH, EPOCHS, CLIP = 8, 8, 0.2


class PPOController:
    """PPO, MnasNet's controller: a recurrent policy, eight clipped steps after every eight candidates."""

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
            self._steps()
            self._batch = []

    def _steps(self) -> None:
        import torch

        rewards = np.array([reward for _, reward in self._batch])
        self._baseline = rewards.mean() if self._baseline is None else self._baseline
        spread = max(float(rewards.std()), 1e-6)
        rows = np.array([self._problem.domain.encode(choices) for choices, _ in self._batch])
        before = self._policy(rows)[0].detach()
        advantages = torch.tensor((rewards - self._baseline) / spread, dtype=torch.float32).to(before)
        for _ in range(EPOCHS):
            logs, entropy = self._policy(rows)
            ratio = (logs - before).exp()
            gained = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
            loss = -gained.mean() - ENTROPY * entropy.mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        self._baseline = DECAY * self._baseline + (1 - DECAY) * float(rewards.mean())
