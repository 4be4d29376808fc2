"""One candidate at a time, in this process."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache, partial
from typing import Any

from nas.architecture import Architecture
from nas.evaluators import Evaluator
from nas.evaluators.executors import Event, no_accuracy
from nas.evaluators.executors.evaluator_host import of_length
from nas.training.loop import TrainingError

END = object()


class InProcessExecutor:
    """Draws the accuracies of the one candidate from its evaluator. What ends any evaluation (Ctrl-C) goes upwards."""

    slots = 1

    def __init__(self, evaluator: Evaluator):
        self._of = cache(partial(of_length, evaluator))
        self._number = -1
        self._accuracies: Generator[Any] | None = None

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Take the candidate up; nothing of it is done before `wait`."""
        self._number, self._accuracies = number, self._evaluate(arch, seed, times)

    def wait(self) -> Event:
        """Return the next accuracy, the end, or what the evaluator raised."""
        assert self._accuracies is not None
        try:
            accuracy = next(self._accuracies, END)
        except Exception as error:
            return Event(self._number, error=error)
        if accuracy is None:  # as an accuracy it would be the end
            self.close()
            return Event(self._number, error=TrainingError(no_accuracy(accuracy)))
        return Event(self._number) if accuracy is END else Event(self._number, accuracy)

    def stop(self, number: int) -> None:
        """Close the evaluation, so that it gives its memory back now."""
        self.close()

    def close(self) -> None:
        """Close what is under way."""
        if self._accuracies is not None:
            self._accuracies.close()
        self._accuracies = None

    def _evaluate(self, arch: Architecture, seed: int, times: int) -> Generator[Any]:
        yield from self._of(times).evaluate(arch, seed)
