"""What a controller is made for and what it is told: the one interface between a search and its controllers."""

from __future__ import annotations

from dataclasses import dataclass

from nas.spaces.encoding import Choices, EncodedSpace
from nas.study.objectives import Metrics, Objective


@dataclass(frozen=True)
class Problem:
    """The candidates, with what is known of each for nothing, and what is maximised."""

    domain: EncodedSpace
    objective: Objective


@dataclass(frozen=True)
class Observation:
    """A candidate that ended. `values` are the objective's; both are None where it failed.

    `curve` is the accuracy after each epoch. `stopped` where a rung ended it: its accuracy is that of fewer epochs
    than others had.
    """

    choices: Choices
    metrics: Metrics | None
    values: tuple[float, ...] | None
    stopped: bool = False
    curve: tuple[float, ...] = ()
