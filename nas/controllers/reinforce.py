"""REINFORCE with a moving baseline and a recurrent policy (Williams 1992; Zoph and Le 2017, section 3.2).

Candidates that the policy did not draw, such as random ones and those of an earlier run, update it like any other.
"""

from __future__ import annotations

from typing import Any

from nas.controllers.base import Problem
from nas.controllers.policy_gradient import PolicySearch
from nas.spaces.encoding import Floats, Indices

ENTROPY = 1e-3
BATCH = 4
"""Trials for one update of the policy."""


def reinforce(problem: Problem) -> PolicySearch:
    """REINFORCE (Zoph and Le 2017): a recurrent policy, updated after every four trials."""
    return PolicySearch(problem, BATCH, _update)


def _update(policy: Any, optimizer: Any, rows: Indices, rewards: Floats, baseline: float) -> None:
    import torch

    advantages = torch.tensor(rewards - baseline, dtype=torch.float32)
    logs, entropy = policy(rows)
    loss = -(advantages.to(logs) * logs).mean() - ENTROPY * entropy.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
