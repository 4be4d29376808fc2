"""How accurate a candidate is. To add one: write a file, add a line here.

An evaluator is a generator of accuracies: the last one counts, and to prune is to stop iterating.
Evaluators do not know latency.

What an evaluator may have beside the protocol: `epochs(setup) -> int`, a static method that tells how many accuracies
an evaluation yields, for rungs to stop at; `longer(times)`, which returns an evaluator that trains so many times as
long, for finalists; `deterministic`, true where another seed gives the same accuracy, so that nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.setup import Setup


class Evaluator(Protocol):
    """What an evaluator file provides; it is made with `Evaluator(setup)`."""

    def __init__(self, setup: Setup):
        """Get ready: load, and train what serves all candidates."""

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield accuracies in [0, 1], better known each time."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides the accuracies, for the result."""


EVALUATORS: dict[str, type[Evaluator]] = {
    "proxy_training": ProxyTraining,
}
