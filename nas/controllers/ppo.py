"""Proximal policy optimization over a recurrent policy: MnasNet's controller (Tan et al. 2019, section 4.2).

The clipped objective is that of Schulman et al. (2017, section 3). The policy stands still within a batch, so that its
own probabilities at the batch's end are those with which the candidates were drawn; one that was told and never asked
for (a random one, an earlier run's, a reference network) counts as if it had been drawn with these.
"""

from __future__ import annotations

from typing import Any

from nas.controllers.base import Problem
from nas.controllers.policy_gradient import PolicySearch
from nas.spaces.encoding import Floats, Indices

ENTROPY = 0.3
"""The weight of a choice's mean entropy beside advantages of unit spread; with little, a policy narrows by luck."""
BATCH, EPOCHS, CLIP = 8, 8, 0.2


def ppo(problem: Problem) -> PolicySearch:
    """PPO, MnasNet's controller: a recurrent policy, eight clipped steps after every eight candidates."""
    return PolicySearch(problem, BATCH, _learn)


def _learn(policy: Any, optimizer: Any, rows: Indices, rewards: Floats, baseline: float) -> None:
    import torch

    spread = max(float(rewards.std()), 1e-6)
    before = policy(rows)[0].detach()
    advantages = torch.tensor((rewards - baseline) / spread, dtype=torch.float32).to(before)
    for _ in range(EPOCHS):
        logs, entropy = policy(rows)
        ratio = (logs - before).exp()
        gained = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
        loss = -gained.mean() - ENTROPY * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
