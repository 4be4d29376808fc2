"""Training from scratch, short and at a small resolution, on the real images (MnasNet, section 5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from nas.architecture import Architecture
from nas.evaluators.base import EvaluatorContext
from nas.networks.network import build
from nas.training.loop import Recipe, Watch, train
from nas.training.tasks.image_datasets import ImageDataset

KEPT = 3


class ProxyTraining:
    """Trains each candidate for `proxy.epochs` at `proxy.resolution`, or where that is a share, at that share."""

    def __init__(self, setup: EvaluatorContext):
        self._setup = setup
        self._task, self._proxy = task, proxy = setup.task, setup.space.proxy
        self._recipe = Recipe(proxy.epochs)
        self._train = task.train_set(proxy.resolution, proxy.images, setup.reporter)
        self._validation = task.validation_set(proxy.resolution, 0, setup.reporter)
        self._sets: OrderedDict[int, tuple[ImageDataset, ImageDataset]] = OrderedDict()

    @staticmethod
    def epochs(setup: EvaluatorContext) -> int:
        """Return how many accuracies an evaluation yields."""
        return setup.space.proxy.epochs

    def longer(self, times: int) -> ProxyTraining:
        """Return an evaluator that trains so many times as long."""
        space: Any = self._setup.space
        proxy = replace(space.proxy, epochs=times * space.proxy.epochs)
        return ProxyTraining(replace(self._setup, space=replace(space, proxy=proxy)))

    @property
    def digest(self) -> str:
        """What images it trains on."""
        return self._train.digest

    @property
    def settings(self) -> dict[str, Any]:
        """Return resolution (a share `of` another where candidates differ in theirs), images and recipe."""
        return {
            "evaluator": "proxy_training",
            "resolution": self._proxy.resolution,
            **({"of": self._proxy.of} if self._proxy.of else {}),
            "train_images": len(self._train),
            "validation_images": len(self._validation),
            **self._recipe.to_dict(),
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the validation accuracy in [0, 1] after each epoch."""
        resolution = self._proxy.at(arch.resolution)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(arch.at(resolution))
        watch = Watch(warn=self._setup.reporter.warn)
        train_set, validation = self._sets_at(resolution)
        yield from train(model, self._task, train_set, validation, self._recipe, seed, watch=watch)

    def _sets_at(self, resolution: int) -> tuple[ImageDataset, ImageDataset]:
        """Return the images at a resolution; those of the last few are kept."""
        if resolution == self._train.resolution:
            return self._train, self._validation
        if resolution not in self._sets:
            task, images = self._task, self._proxy.images
            self._sets[resolution] = task.train_set(resolution, images), task.validation_set(resolution)
        self._sets.move_to_end(resolution)
        if len(self._sets) > KEPT:
            self._sets.popitem(last=False)
        return self._sets[resolution]
