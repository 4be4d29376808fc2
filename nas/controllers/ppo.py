"""Proximal policy optimization with a recurrent policy: MnasNet's controller (Tan et al. 2019, section 4.2).

The clipped objective is that of Schulman et al. (2017, section 3). The policy does not change within a batch, so its
probabilities at the end of the batch are those with which it drew the candidates. Candidates that it did not draw, such
as random ones and those of an earlier run, count as if it had.
"""

from __future__ import annotations

from typing import Any

from nas.controllers.base import Problem
from nas.controllers.policy_gradient import PolicySearch
from nas.spaces.encoding import Floats, Indices

ENTROPY = 0.3
"""The weight of a choice's mean entropy, with advantages of unit deviation. A small one lets luck narrow the policy."""
BATCH, EPOCHS, CLIP = 8, 8, 0.2


def ppo(problem: Problem) -> PolicySearch:
    """PPO, MnasNet's controller: a recurrent policy, updated by eight clipped steps after every eight trials."""
    return PolicySearch(problem, BATCH, _update)


def _update(policy: Any, optimizer: Any, rows: Indices, rewards: Floats, baseline: float) -> None:
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
