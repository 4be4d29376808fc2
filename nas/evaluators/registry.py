"""How accurate a candidate is. To add one: write a file, add a line here.

An evaluator is a generator of accuracies: the last one counts, and to prune is to stop iterating.
Evaluators do not know latency. What one may have beside the protocol stands in the docstring of `Evaluator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.evaluators.tabular import Tabular
from nas.evaluators.user_defined import OwnEvaluator, load_own, own_epochs
from nas.evaluators.zero_cost import zero_cost_evaluator
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.utils.registry import lookup


class Evaluator(Protocol):
    """What an evaluator file provides; it is made from a Setup: there it loads, and trains what serves all.

    It may have more: `deterministic = True` where another seed gives the same accuracies (nothing is repeated then),
    a static `epochs(setup)` that says how many accuracies an evaluation yields (then trainings can be stopped early;
    None where there is but one), `longer(times)` that returns an evaluator of so many times the epochs (for
    finalists), and `trained(arch)` that returns a network whose weights the winner's training starts from.
    """

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield accuracies in [0, 1], better known each time."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides the accuracies, for the result."""


EVALUATORS: dict[str, Callable[[EvaluatorContext], Evaluator]] = {
    "proxy_training": ProxyTraining,
    "supernet": SupernetEvaluator,
    "tabular": Tabular,
    **{name: zero_cost_evaluator(name) for name in ZERO_COST},
}


def find_evaluator(name: str) -> Callable[[EvaluatorContext], Evaluator]:
    """Return what makes the evaluator `name`: ours, an entry point of `nas.evaluators`, or `package.module:function`.

    Raises UsageError with the nearest name, or with what is wrong in the module that was named.
    """
    if name in EVALUATORS:
        return EVALUATORS[name]
    thing = _own(name)
    return lambda setup: OwnEvaluator(name, thing, setup)


def epochs_of(name: str, setup: EvaluatorContext) -> int | None:
    """Return how many accuracies an evaluation by `name` yields, None where the evaluator does not tell.

    Raises as `find_evaluator`, and UsageError where a user's evaluator tells what is no number of epochs.
    """
    if name not in EVALUATORS:
        return own_epochs(name, _own(name), setup)
    told: Callable[[EvaluatorContext], int | None] | None = getattr(EVALUATORS[name], "epochs", None)
    return None if told is None else told(setup)


def _own(name: str) -> Callable[..., Any]:
    if ":" in name:
        return load_own(name)
    try:
        return lookup(EVALUATORS, name, "evaluator", "--evaluator")
    except NasError:
        raise
    except Exception as error:  # an installed package that cannot be imported
        raise UsageError(f"--evaluator: {name}: {type(error).__name__}: {error}") from error
