"""REINFORCE with a moving baseline over a recurrent policy (Williams 1992; Zoph and Le 2017, section 3.2).

A candidate that was told and never asked for (a random one, an earlier run's, a reference network) moves the policy by
its log-probability like any other, though it was not drawn from it.
"""

from __future__ import annotations

from typing import Any

from nas.controllers.base import Problem
from nas.controllers.policy_gradient import PolicySearch
from nas.spaces.encoding import Floats, Indices

ENTROPY = 1e-3
BATCH = 4
"""Candidates for one step of the policy."""


def reinforce(problem: Problem) -> PolicySearch:
    """REINFORCE (Zoph and Le 2017): a recurrent policy over the choices, which steps after every four candidates."""
    return PolicySearch(problem, BATCH, _learn)


def _learn(policy: Any, optimizer: Any, rows: Indices, rewards: Floats, baseline: float) -> None:
    import torch

    advantages = torch.tensor(rewards - baseline, dtype=torch.float32)
    logs, entropy = policy(rows)
    loss = -(advantages.to(logs) * logs).mean() - ENTROPY * entropy.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
