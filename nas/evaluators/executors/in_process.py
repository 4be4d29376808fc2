"""The in-process executor: evaluates one candidate at a time in this process."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import cache, partial
from typing import Any

from nas.architecture import Architecture
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Event, invalid_accuracy
from nas.evaluators.executors.evaluator_host import extend_epochs
from nas.training.loop import TrainingError

END = object()


class InProcessExecutor:
    """An executor with one slot. Only Exceptions become events; KeyboardInterrupt and SystemExit propagate."""

    slots = 1

    def __init__(self, evaluator: Evaluator):
        self._evaluator_for = cache(partial(extend_epochs, evaluator))
        self._number = -1
        self._started_s = 0.0
        self._accuracies: Generator[Any] | None = None

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Accept the candidate. The evaluation begins in `wait`."""
        self._number, self._accuracies = number, self._evaluate(arch, seed, times)
        self._started_s = time.process_time()

    def wait(self) -> Event:
        """Return the next accuracy, the end, or the error of the evaluator."""
        assert self._accuracies is not None
        try:
            accuracy = next(self._accuracies, END)
        except Exception as error:
            return Event(self._number, error=error)
        if accuracy is None:  # an Event without an accuracy would mean the end
            self.close()
            return Event(self._number, error=TrainingError(invalid_accuracy(accuracy)))
        if accuracy is END:
            return Event(self._number, processor_s=time.process_time() - self._started_s)
        return Event(self._number, accuracy)

    def stop(self, number: int) -> None:
        """Close the evaluation, which releases its memory at once."""
        self.close()

    def close(self) -> None:
        """Close the evaluation, if there is one."""
        if self._accuracies is not None:
            self._accuracies.close()
        self._accuracies = None

    def _evaluate(self, arch: Architecture, seed: int, times: int) -> Generator[Any]:
        yield from self._evaluator_for(times).evaluate(arch, seed)
