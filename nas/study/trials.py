"""Trials: the candidates of a search in every state, and finalists that are evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.networks.network import canonical
from nas.spaces.search_space import Choices, Searched
from nas.study.objectives import Metrics

NO_RESULT: Any = None
"""The metrics and values of a trial without a result."""


class TrialState(StrEnum):
    """How far the evaluation of a candidate is."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    """Early stopping ended it before its last epoch."""
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """One candidate of a search.

    Attributes:
        number: The place among all candidates of the search, from 0; -1 for a candidate of an earlier run.
        choices: The active choices and their values.
        digest: The digest of the architecture.
        state: How far the evaluation is.
        metrics: The metrics. While the trial runs, the accuracy in them is 0. None if it failed.
        values: The objective's values of the metrics. None while the trial runs and if it failed.
        curve: The accuracy after each epoch. The last one is that of the metrics.
        duration_s: How long the evaluation took, in seconds.
        error: Why the evaluation failed.
        decode: Builds the architecture from the choices.
    """

    number: int
    choices: Choices
    digest: str
    state: TrialState
    metrics: Metrics = NO_RESULT
    values: tuple[float, ...] = NO_RESULT
    curve: tuple[float, ...] = ()
    duration_s: float = 0.0
    error: str = ""
    decode: Callable[[], Architecture] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def architecture(self) -> Architecture:
        """The network, decoded on first use. Raises RunError if its digest is not the recorded one."""
        assert self.decode is not None, "this trial was made without its search space"
        arch = self.decode()
        if arch.digest != self.digest:
            raise RunError(f"trial {self.number}: its choices give the network {arch.digest}, not {self.digest}")
        return arch

    @property
    def stopped_at(self) -> int | None:
        """The number of epochs after which early stopping ended the trial; None if it was not stopped."""
        return len(self.curve) if self.state is TrialState.STOPPED else None

    def metrics_after(self, epochs: int) -> Metrics:
        """Return the metrics with the accuracy after that many epochs."""
        return replace(self.metrics, accuracy=self.curve[epochs - 1])


@dataclass(frozen=True)
class Repeat:
    """Another evaluation of a finalist.

    Attributes:
        repeat_of: The digest of the finalist.
        seed: The seed of this evaluation.
        longer: How many times as many epochs it takes as an evaluation in the search.
        after: How many candidates had been tried before it. This separates what the search knew when it chose
            its finalists from what it learned about them afterwards.
        curve: The accuracy after each epoch.
        error: Why the evaluation failed; None if it did not.
    """

    repeat_of: str
    seed: int
    longer: int
    after: int
    curve: tuple[float, ...]
    error: str | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies the evaluation: architecture, seed and length."""
        return self.repeat_of, self.seed, self.longer


def trial_of(frozen: Any, number: int, space: Searched) -> Trial:
    """Return the trial with that `number` that a finished Optuna trial stores."""
    known, choices = frozen.user_attrs, dict(frozen.params)
    if "error" in known:
        return Trial(number, choices, known["digest"], TrialState.FAILED, error=known["error"])
    decode = partial(_decode, space, choices)
    if "architecture" in known:  # older run folders have it
        decode = partial(Architecture.from_dict, known["architecture"])
    return Trial(
        number=number,
        choices=choices,
        digest=known["digest"],
        state=TrialState.STOPPED if "stopped_at" in known else TrialState.COMPLETE,
        metrics=Metrics.from_dict(known["metrics"]),
        values=tuple(frozen.values),
        curve=tuple(known.get("curve", [known["metrics"]["accuracy"]])),
        duration_s=known["duration_s"],
        decode=decode,
    )


def _decode(space: Searched, choices: Choices) -> Architecture:
    return canonical(space.decode(choices))
