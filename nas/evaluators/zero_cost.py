"""Zero-cost scores as evaluators: a candidate's accuracy is its score's place among random networks of the space.

It ranks as the score does, and says nothing of the accuracy itself: 0.9 is a score above nine tenths of the space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from nas.architecture import Architecture
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.zero_cost_scores import SIZES, ZERO_COST, draw_batch, score
from nas.spaces.sampling import sample_networks
from nas.training.loop import TrainingError
from nas.utils.files import write_json

REFERENCE = 64
"""Random networks of the space that say what a score is worth."""
REFERENCE_SEED = 0
ATTEMPTS = 20
"""Draws for each of them; a small space has fewer networks than REFERENCE."""


class ZeroCost:
    """One score of nas/zero_cost.py as an evaluator."""

    def __init__(self, name: str, setup: EvaluatorContext):
        self._name, self._proxy = name, setup.space.proxy
        self.deterministic = name in SIZES
        self._task, self._batch = setup.task, draw_batch(setup.task, self._proxy.resolution, REFERENCE_SEED)
        self._batches = {self._proxy.resolution: self._batch}
        self._reference = self._scores(setup)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the score, what it looks at, and how it becomes a value in [0, 1]."""
        return {
            "evaluator": self._name,
            "resolution": self._proxy.resolution,
            "images": len(self._batch.labels),
            "value": f"place of the score among {len(self._reference)} random networks of the space",
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the place of the score in (0, 1). Raises TrainingError where the network has none."""
        yield place(self._score(arch, seed), self._reference)

    def _score(self, arch: Architecture, seed: int) -> float:
        resolution = self._proxy.at(arch.resolution)
        if resolution not in self._batches:
            self._batches[resolution] = draw_batch(self._task, resolution, REFERENCE_SEED)
        return score(self._name, arch, self._batches[resolution], seed)

    def _scores(self, setup: EvaluatorContext) -> list[float]:
        """Return the scores of the reference, kept in the run's folder: a search that goes on needs no new ones."""
        identity = {
            "space": setup.space.key,
            "data": setup.task.data.name,
            "train_images": len(setup.task.data.train),
            "resolution": self._proxy.resolution,
            "reference": REFERENCE,
            "torch": torch.__version__,
        }
        path = setup.folder / self._name / "reference.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["identity"] == identity:
                return [float(value) for value in stored["scores"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none yet, or a broken one: scores can be had again
        scores = self._score_reference(setup)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "scores": scores})
        return scores

    def _score_reference(self, setup: EvaluatorContext) -> list[float]:
        scores, reason = [], None
        archs = sample_networks(setup.space, REFERENCE, REFERENCE_SEED, ATTEMPTS)
        with setup.reporter.task(f"{self._name} of random networks", len(archs)) as advance:
            for arch in archs:
                try:
                    scores.append(self._score(arch, REFERENCE_SEED))
                except TrainingError as error:
                    reason = error
                advance(1)
        if not scores:
            raise TrainingError(f"--evaluator: no network of '{setup.space.name}' has this score: {reason}")
        return scores


def zero_cost_evaluator(name: str) -> Callable[[EvaluatorContext], ZeroCost]:
    """Return what makes the evaluator of the score called `name` from a Setup."""

    def make(setup: EvaluatorContext) -> ZeroCost:
        return ZeroCost(name, setup)

    make.__doc__ = ZERO_COST[name].__doc__
    return make


def place(value: float, reference: list[float]) -> float:
    """Return where `value` stands among the reference scores, in (0, 1), strictly increasing.

    The empirical distribution function, halfway up its steps and linear between them. Beyond the ends it approaches
    0 and 1 as 1 / (1 + distance / span), so that scores which the reference does not reach keep their order.
    """
    points, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
    heights = (np.cumsum(counts) - counts / 2) / len(reference)
    low, high = float(points[0]), float(points[-1])
    span = (high - low) or abs(high) or 1.0
    if value < low:
        return float(heights[0] / (1 + (low - value) / span))
    if value > high:
        return float(1 - (1 - heights[-1]) / (1 + (value - high) / span))
    return float(np.interp(value, points, heights))
