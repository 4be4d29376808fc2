"""Training from scratch, short and at a small resolution, on the real images (MnasNet, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from nas.architecture import Architecture
from nas.evaluators.setup import Setup
from nas.network import build
from nas.training import Recipe, Watch, train


class ProxyTraining:
    """Trains each candidate for `proxy.epochs` at `proxy.resolution`."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._task, self._proxy = task, proxy = setup.task, setup.space.proxy
        self._recipe = Recipe(proxy.epochs)
        self._train = task.train_set(proxy.resolution, proxy.images)
        self._validation = task.validation_set(proxy.resolution)

    @staticmethod
    def epochs(setup: Setup) -> int:
        """Return how many accuracies an evaluation yields."""
        return setup.space.proxy.epochs

    def longer(self, times: int) -> ProxyTraining:
        """Return an evaluator that trains so many times as long."""
        space = self._setup.space
        proxy = replace(space.proxy, epochs=times * space.proxy.epochs)
        return ProxyTraining(replace(self._setup, space=replace(space, proxy=proxy)))

    @property
    def digest(self) -> str:
        """What images it trains on."""
        return self._train.digest

    @property
    def settings(self) -> dict[str, Any]:
        """Return resolution, images and recipe."""
        return {
            "evaluator": "proxy_training",
            "resolution": self._proxy.resolution,
            "train_images": len(self._train),
            "validation_images": len(self._validation),
            **self._recipe.to_dict(),
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the validation accuracy in [0, 1] after each epoch."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(arch.at(self._proxy.resolution))
        watch = Watch(warn=self._setup.reporter.warn)
        yield from train(model, self._task, self._train, self._validation, self._recipe, seed, watch=watch)
