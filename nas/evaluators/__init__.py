"""How accurate a candidate is. To add one: write a file, add a line here.

An evaluator is a generator of accuracies: the last one counts, and to prune is to stop iterating.
Evaluators do not know latency.

What an evaluator may have beside the protocol: `epochs(setup) -> int`, a static method that tells how many accuracies
an evaluation yields, for rungs to stop at; `longer(times)`, which returns an evaluator that trains so many times as
long, for finalists; `deterministic`, true where another seed gives the same accuracy, so that nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.evaluators.own import OwnEvaluator, load_own
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.setup import Setup
from nas.evaluators.supernet import SupernetEvaluator
from nas.evaluators.tabular import Tabular
from nas.evaluators.zero_cost import zero_cost_evaluator
from nas.registry import lookup
from nas.zero_cost import ZERO_COST


class Evaluator(Protocol):
    """What an evaluator file provides; it is made from a Setup: there it loads, and trains what serves all.

    It may have more: `deterministic = True` where another seed gives the same accuracies (nothing is repeated then),
    a static `epochs(setup)` that says how many accuracies an evaluation yields (then trainings can be stopped early),
    `longer(times)` that returns an evaluator of so many times the epochs (for finalists), and `trained(arch)` that
    returns a network whose weights the winner's training starts from.
    """

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield accuracies in [0, 1], better known each time."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides the accuracies, for the result."""


EVALUATORS: dict[str, Callable[[Setup], Evaluator]] = {
    "proxy_training": ProxyTraining,
    "supernet": SupernetEvaluator,
    "tabular": Tabular,
    **{name: zero_cost_evaluator(name) for name in ZERO_COST},
}


def find_evaluator(name: str) -> Callable[[Setup], Evaluator]:
    """Return what makes the evaluator `name`: ours, an entry point of `nas.evaluators`, or `package.module:function`.

    Raises UsageError with the nearest name, or with what is wrong in the module that was named.
    """
    if ":" in name:
        thing = load_own(name)
    elif name in EVALUATORS:
        return EVALUATORS[name]
    else:
        try:
            thing = lookup(EVALUATORS, name, "evaluator", "--evaluator")
        except NasError:
            raise
        except Exception as error:  # an installed package that cannot be imported
            raise UsageError(f"--evaluator: {name}: {type(error).__name__}: {error}") from error
    return lambda setup: OwnEvaluator(name, thing, setup)
