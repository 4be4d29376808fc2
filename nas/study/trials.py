"""What a study holds: candidates that were evaluated, those that failed, and finalists evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import RunError
from nas.networks.network import canonical
from nas.spaces.search_space import Choices, Searched
from nas.study.objectives import Metrics


@dataclass(frozen=True)
class Trial:
    """A candidate that was evaluated; `values` are what the objective gave for `metrics`.

    `number` is its place among all candidates, from 0. `curve` is the accuracy after each epoch, the last of them
    that of the metrics. Where a rung stopped it, `stopped_at` is the number of epochs that it got.
    """

    number: int
    choices: dict[str, Scalar]
    digest: str
    metrics: Metrics
    values: tuple[float, ...]
    duration_s: float
    curve: tuple[float, ...]
    stopped_at: int | None
    decode: Callable[[], Architecture] = field(repr=False, compare=False)

    @cached_property
    def architecture(self) -> Architecture:
        """The network, made of the choices when it is asked for. Raises RunError where they give another."""
        arch = self.decode()
        if arch.digest != self.digest:
            raise RunError(f"trial {self.number}: its choices give the network {arch.digest}, not {self.digest}")
        return arch


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be evaluated, and why."""

    number: int
    choices: dict[str, Scalar]
    digest: str
    reason: str


@dataclass(frozen=True)
class Repeat:
    """A finalist evaluated again, with another seed and `longer` times the epochs; `error` if that failed.

    `after` is how many candidates had been tried: what a search knew before it chose its finalists is told from what
    it learnt of them.
    """

    repeat_of: str
    seed: int
    longer: int
    after: int
    curve: tuple[float, ...]
    error: str | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What it was: architecture, seed and length."""
        return self.repeat_of, self.seed, self.longer


def trial_of(frozen: Any, number: int, space: Searched) -> Trial:
    """Return the trial that a finished Optuna trial is, the one with that `number`."""
    known, choices = frozen.user_attrs, dict(frozen.params)
    decode = partial(_decode, space, choices)
    if "architecture" in known:  # run folders from before have it
        decode = partial(Architecture.from_dict, known["architecture"])
    return Trial(
        number=number,
        choices=choices,
        digest=known["digest"],
        metrics=Metrics.from_dict(known["metrics"]),
        values=tuple(frozen.values),
        duration_s=known["duration_s"],
        curve=tuple(known.get("curve", [known["metrics"]["accuracy"]])),
        stopped_at=known.get("stopped_at"),
        decode=decode,
    )


def failure_of(frozen: Any, number: int) -> Failure:
    """Return the failure that a failed Optuna trial is, the one with that `number`."""
    return Failure(number, dict(frozen.params), frozen.user_attrs["digest"], frozen.user_attrs["error"])


def _decode(space: Searched, choices: Choices) -> Architecture:
    return canonical(space.decode(choices))
