"""The evaluators by name. To add one, write a file and add a line to EVALUATORS.

An evaluator is a generator of accuracies (see `nas.evaluators.base.Evaluator`). It does not know latency.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.evaluators.accuracy_table import metric_of
from nas.evaluators.base import Evaluator, EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.evaluators.tabular import Tabular
from nas.evaluators.user_defined import UserEvaluator, load_callable, user_epochs
from nas.evaluators.zero_cost import zero_cost_evaluator
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.training.tasks.metrics import spell
from nas.utils.registry import lookup, plugin_module
from nas.utils.source_code import source_digests

EVALUATORS: dict[str, Callable[[EvaluatorContext], Evaluator]] = {
    "proxy_training": ProxyTraining,
    "supernet": SupernetEvaluator,
    "tabular": Tabular,
    **{name: zero_cost_evaluator(name) for name in ZERO_COST},
}


def find_evaluator(name: str) -> Callable[[EvaluatorContext], Evaluator]:
    """Return the factory of the evaluator called `name`.

    Args:
        name: A key of EVALUATORS, an entry point of the group `nas.evaluators`, or `package.module:function`.

    Raises:
        UsageError: The name is unknown, or its module cannot be imported.
    """
    if name in EVALUATORS:
        return EVALUATORS[name]
    function = _load_user_defined(name)
    source_files = source_digests(*evaluator_modules(name))
    return lambda context: UserEvaluator(name, function, context, source_files)


def check_metric(name: str, metric: str, source: Path | None, default: str = "accuracy") -> None:
    """Check that the evaluator called `name` ranks by `metric`. Raises UsageError.

    Args:
        name: The evaluator.
        metric: What ranks networks.
        source: The file or folder that the evaluator reads, or None.
        default: The metric that the task ranks by if none is asked for. Values of any evaluator stand for it.
    """
    if name == "tabular" and source is not None:
        if (found := metric_of(source, default)) != metric:
            rule = f"the table '{source}' holds the {spell(found)}"
            raise UsageError(rule, key="metric", value=metric, nearest=f"; did you mean '{found}'?")
    elif metric != default and not uses_task(name):
        able = " and ".join(key for key in EVALUATORS if uses_task(key))
        rule = f"the evaluator '{name}' cannot apply it, it has values of its own"
        raise UsageError(rule, key="metric", value=metric, nearest=f"; {able} can")


def uses_task(name: str) -> bool:
    """Return whether the evaluator called `name` trains with the task's class weights and ranks by its metric."""
    return bool(getattr(EVALUATORS.get(name), "uses_task", False))


def epochs_of(name: str, context: EvaluatorContext) -> int | None:
    """Return how many accuracies one evaluation by `name` yields, or None if the evaluator does not declare it.

    Raises:
        UsageError: As for `find_evaluator`, or a user-defined evaluator declares an invalid number of epochs.
    """
    if name not in EVALUATORS:
        return user_epochs(name, _load_user_defined(name), context)
    declared: Callable[[EvaluatorContext], int | None] | None = getattr(EVALUATORS[name], "epochs", None)
    return None if declared is None else declared(context)


def evaluator_modules(name: str) -> tuple[str, ...]:
    """Return the module of a user-defined evaluator; empty for the evaluators of this package."""
    module = name.partition(":")[0] if ":" in name else plugin_module(EVALUATORS, name, "evaluator")
    return (module,) if module else ()


def _load_user_defined(name: str) -> Callable[..., Any]:
    if ":" in name:
        return load_callable(name)
    return lookup(EVALUATORS, name, "evaluator", "--evaluator")
