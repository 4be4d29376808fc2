"""What a user's evaluator returns or yields: one number, or an iterator of numbers over time."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Iterator
from typing import Any

from nas.errors import one_line
from nas.training.loop import TrainingError

LONGEST_VALUE = 80
"""Characters of an invalid value to show."""
ONE_NUMBER = "return the accuracy alone, or yield one accuracy after each epoch"


def accuracies_of(result: Any) -> Iterator[float]:
    """Yield the accuracies of what an evaluator returned.

    A generator, or another iterator, yields accuracies over time. Everything else is one accuracy.

    Raises:
        TrainingError: A value is not one number in [0, 1], or the iterator is empty.
    """
    if not isinstance(result, Iterator):
        yield to_accuracy(result)
        return
    is_empty = True
    returned = None
    while True:
        try:
            value = next(result)
        except StopIteration as end:
            returned = end.value
            break
        is_empty = False
        yield to_accuracy(value)
    if returned is not None:
        raise TrainingError(f"a generator must yield its accuracies, not return them: {_shown(returned)}")
    if is_empty:
        raise TrainingError("it yielded no accuracy")


def to_accuracy(value: Any) -> float:
    """Convert a number (also an array or a tensor of one number) to an accuracy.

    Raises:
        TrainingError: The value is not one number in [0, 1]. The message says what to return instead.
    """
    if problem := _not_a_number(value):
        raise TrainingError(f"an accuracy must be one number in [0, 1], not {problem}")
    item: Any = value.item() if hasattr(value, "item") and getattr(value, "size", None) is not None else value
    number = float(item) if isinstance(item, numbers.Real) and item is not True and item is not False else math.nan
    if not 0 <= number <= 1:
        hint = f"; if it is a percentage, return {number / 100:g}" if 1 < number <= 100 else ""
        raise TrainingError(f"an accuracy must be in [0, 1]: {_shown(value)}{hint}")
    return number


def _not_a_number(value: Any) -> str:
    """Return what a value of several parts, or an asynchronous result, is; "" for any other value."""
    kind = type(value).__name__
    if inspect.iscoroutine(value):
        value.close()  # otherwise Python warns that it was never awaited
        return "a coroutine; write the evaluator without 'async'"
    if inspect.isawaitable(value) or inspect.isasyncgen(value):
        return f"'{kind}'; write the evaluator without 'async'"
    if isinstance(value, tuple | list | dict | set | frozenset):
        return f"a {kind} of {len(value)}: {_shown(value)}; {ONE_NUMBER}"
    count = _number_of_elements(value)
    return "" if count == 1 else f"'{kind}' of {count} elements: {_shown(value)}; {ONE_NUMBER}"


def _number_of_elements(value: Any) -> int:
    """Return the number of elements of a tensor or an array; 1 for any other value."""
    numel = getattr(value, "numel", None)
    count = numel() if callable(numel) else getattr(value, "size", 1)
    return count if isinstance(count, int) else 1


def _shown(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
