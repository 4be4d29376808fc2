"""What an evaluator is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nas.spaces.search_space import Searched
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter


@dataclass(frozen=True)
class EvaluatorContext:
    """The task, the space with its proxy and a head for the task's classes, and where an evaluator may keep its state.

    `source` is what the user points the evaluator at: a supernet's folder, a table of accuracies; None where nothing
    was given. `folder` is the run's; an evaluator writes into a folder of its own name in it, if at all.
    """

    task: Classification
    space: Searched
    folder: Path
    source: Path | None = None
    seed: int = 0
    reporter: Reporter = field(default_factory=Reporter)
