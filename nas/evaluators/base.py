"""The protocol of evaluators, and the context that an evaluator is created from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.spaces.search_space import Searched
from nas.training.pretrained_network import PretrainedNetwork
from nas.training.tasks.base import Task
from nas.utils.reporting import Reporter


@dataclass(frozen=True)
class EvaluatorContext:
    """Everything that an evaluator is created from.

    Attributes:
        task: The task with its data.
        space: The search space, with its proxy settings and a head for the task's classes.
        folder: The run folder. An evaluator may keep its state in a subfolder of its own name.
        source: The file or folder that the evaluator reads (a supernet, a table of accuracies), or None.
        seed: The seed of the search.
        reporter: Prints progress and warnings.
        pretrained: The network whose weights candidates start from; None: random weights.
        runtime: The runtime of the device. If it does not compute in float32, trained candidates are tested in it.
    """

    task: Task
    space: Searched
    folder: Path
    source: Path | None = None
    seed: int = 0
    reporter: Reporter = field(default_factory=Reporter)
    pretrained: PretrainedNetwork | None = None
    runtime: str = "onnxruntime"


class Evaluator(Protocol):
    """Estimates the accuracy of architectures. It is created with an EvaluatorContext.

    The constructor loads data and trains whatever all candidates share. An evaluator may also define:

    * `deterministic = True`: the seed does not change the accuracies, so candidates are not evaluated again.
    * `uses_task = True`: it trains with the task's class weights, and the values are those of the task's metric.
    * `epochs(context)`, a static method: returns how many accuracies one evaluation yields, which allows early
      stopping, or None if it yields only one.
    * `longer(times)`: returns an evaluator that trains `times` as many epochs; used for finalists.
    * `saved(arch, seed)`: returns how many epochs of an evaluation whose process died it can continue from.
    * `trained(arch)`: returns a network whose weights the training of the winner starts from.
    """

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield increasingly precise accuracies in [0, 1]. The last one counts; callers may stop earlier."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the accuracies, as JSON values with the key "evaluator"."""
