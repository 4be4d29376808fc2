"""Evaluators: how accurate a candidate is. To add one, write a file and add a line in `nas.evaluators.registry`.

The registry imports every evaluator, and torch with them. It is loaded on first use, so that a worker process imports
only what its own evaluator needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.evaluators.registry import EVALUATORS, check_metric, epochs_of, find_evaluator, uses_task

__all__ = ["EVALUATORS", "check_metric", "epochs_of", "find_evaluator", "uses_task"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("nas.evaluators.registry"), name)
