"""Zero-cost evaluators: map a zero-cost score to [0, 1] by its rank among random networks of the space.

The value ranks candidates as the score does. It does not estimate the accuracy: 0.9 means that the score is higher
than that of 90 % of the random networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.zero_cost_scores import SIZES, ZERO_COST, draw_batch, score
from nas.spaces.sampling import sample_networks
from nas.training.loop import TrainingError
from nas.training.tasks.base import Task
from nas.utils.files import write_json

REFERENCE = 64
"""Number of random networks whose scores are the reference."""
REFERENCE_SEED = 0
ATTEMPTS = 20
"""Draws per random network. A small space may have fewer networks than REFERENCE."""


class ZeroCost:
    """An evaluator for one score of `nas.evaluators.zero_cost_scores`.

    Args:
        name: A key of ZERO_COST.
        context: Where the evaluator is used.
    """

    def __init__(self, name: str, context: EvaluatorContext):
        self._name, self._proxy = name, context.space.proxy
        self.deterministic = name in SIZES
        self._task, self._batch = context.task, draw_batch(context.task, self._proxy.resolution, REFERENCE_SEED)
        self._batches = {self._proxy.resolution: self._batch}
        self._reference = self._reference_scores(context)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the score, its input, and how it is mapped to [0, 1]."""
        return {
            "evaluator": self._name,
            "resolution": self._proxy.resolution,
            "images": len(self._batch.items),
            **_fit(self._task),
            "value": f"place of the score among {len(self._reference)} random networks of the space",
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the rank of the score, in (0, 1). Raises TrainingError if the network has no finite score."""
        yield relative_rank(self._score(arch, seed), self._reference)

    def _score(self, arch: Architecture, seed: int) -> float:
        resolution = self._proxy.at(arch.resolution)
        if resolution not in self._batches:
            self._batches[resolution] = draw_batch(self._task, resolution, REFERENCE_SEED)
        return score(self._name, arch, self._batches[resolution], seed)

    def _reference_scores(self, context: EvaluatorContext) -> list[float]:
        """Return the scores of the random networks. The run folder keeps them, for searches that resume."""
        identity = {
            "space": context.space.key,
            "data": context.task.data.name,
            "train_images": len(context.task.data.train),
            **_fit(self._task),
            "resolution": self._proxy.resolution,
            "reference": REFERENCE,
            "torch": torch.__version__,
        }
        path = context.folder / self._name / "reference.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["identity"] == identity:
                return [float(value) for value in stored["scores"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or broken: compute the scores again
        scores = self._score_random_networks(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "scores": scores})
        return scores

    def _score_random_networks(self, context: EvaluatorContext) -> list[float]:
        scores, reason = [], None
        archs = sample_networks(context.space, REFERENCE, REFERENCE_SEED, ATTEMPTS)
        with context.reporter.task(f"{self._name} of random networks", len(archs)) as advance:
            for arch in archs:
                try:
                    scores.append(self._score(arch, REFERENCE_SEED))
                except TrainingError as error:
                    reason = error
                advance(1)
        if not scores:
            rule = f"no random network of the space '{context.space.name}' has a finite score ({reason})"
            raise UsageError(rule, key="evaluator", value=self._name)
        return scores


def _fit(task: Task) -> dict[str, str]:
    """Return the fit of a task, if it differs from its default: a score depends on no other setting."""
    return {key: value for key, value in task.settings.items() if key == "fit"}


def zero_cost_evaluator(name: str) -> Callable[[EvaluatorContext], ZeroCost]:
    """Return the factory of the evaluator for the score called `name`, with the docstring of the score."""

    def make(context: EvaluatorContext) -> ZeroCost:
        return ZeroCost(name, context)

    make.__doc__ = ZERO_COST[name].__doc__
    return make


def relative_rank(value: float, reference: list[float]) -> float:
    """Return the rank of a score among the reference scores, strictly increasing and in (0, 1).

    This is the empirical distribution function, interpolated linearly between the middles of its steps. Outside the
    range of the reference it approaches 0 and 1 as 1 / (1 + distance / range), so higher scores always rank higher.
    """
    points, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
    heights = (np.cumsum(counts) - counts / 2) / len(reference)
    low, high = float(points[0]), float(points[-1])
    span = (high - low) or abs(high) or 1.0
    if value < low:
        return float(heights[0] / (1 + (low - value) / span))
    if value > high:
        return float(1 - (1 - heights[-1]) / (1 + (value - high) / span))
    upper = heights[np.searchsorted(points, value)]
    return float(min(np.interp(value, points, heights), upper))  # rounding may pass the next step
