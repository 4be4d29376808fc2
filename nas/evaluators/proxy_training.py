"""Proxy training: trains each candidate briefly and at a low resolution (MnasNet, section 5)."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.evaluators.base import EvaluatorContext
from nas.networks.network import build_seeded
from nas.spaces.identity import hex_digest
from nas.training.checkpoint import saved_epochs
from nas.training.deployed_network import deployed_reports, must_deploy
from nas.training.loop import Epoch, Recipe, TrainingError, Watch, pick_device, train
from nas.training.recipe import CANDIDATES, suited
from nas.training.stuck import chance_loss, constant_output
from nas.training.tasks.base import TaskDataset

CHECKPOINTS = "candidates"
"""The folder, in that of the run, of the checkpoints of evaluations that are not finished."""
CHECKPOINT_S = 30.0
"""Seconds between two checkpoints of an evaluation, at least. Most evaluations are shorter and have none."""
MAX_RESOLUTIONS = 3
"""For how many further resolutions the images are kept."""


class ProxyTraining:
    """Trains each candidate for `proxy.epochs` epochs at `proxy.resolution`, or at that share of its own resolution.

    Candidates start from random weights, or from what they inherit of a pretrained network. If the runtime of the
    search does not compute in float32, the last accuracy is that of the exported network in this runtime: quantization
    costs some networks more than others.

    Args:
        context: The task, the space and its proxy, and the pretrained network.
        keeps_stuck: Whether a network that learned nothing counts with its accuracy instead of failing.
        recipe: How to train; None: as `CANDIDATES`, with the batch size of the task. `proxy.epochs` replaces its
            epochs.
    """

    uses_task = True

    def __init__(self, context: EvaluatorContext, keeps_stuck: bool = False, recipe: Recipe | None = None):
        self._keeps_stuck = keeps_stuck
        self._context = context
        self._task, self._proxy = task, proxy = context.task, context.space.proxy
        recipe = recipe or replace(CANDIDATES, batch_size=task.batch_size)
        self._recipe = replace(recipe, epochs=proxy.epochs)
        self._train_set = task.train_set(proxy.resolution, proxy.images, context.reporter)
        self._validation = task.validation_set(proxy.resolution, 0, context.reporter)
        self._has_warned = False
        self._sets: OrderedDict[int, tuple[TaskDataset, TaskDataset]] = OrderedDict()

    @staticmethod
    def epochs(context: EvaluatorContext) -> int:
        """Return how many accuracies an evaluation yields."""
        return context.space.proxy.epochs

    def longer(self, times: int) -> ProxyTraining:
        """Return an evaluator that trains `times` as many epochs."""
        space: Any = self._context.space
        proxy = replace(space.proxy, epochs=times * space.proxy.epochs)
        context = replace(self._context, space=replace(space, proxy=proxy))
        return ProxyTraining(context, recipe=self._recipe)

    @property
    def digest(self) -> str:
        """The digest of the training images."""
        return self._train_set.digest

    @property
    def settings(self) -> dict[str, Any]:
        """Return resolution, numbers of images and recipe. With `of`, the resolution is relative to that resolution."""
        return {
            "evaluator": "proxy_training",
            "resolution": self._proxy.resolution,
            **({"of": self._proxy.of} if self._proxy.of else {}),
            "train_images": len(self._train_set),
            "validation_images": len(self._validation),
            **self._recipe.to_dict(),
            **({"weights": self._context.pretrained.digest} if self._context.pretrained else {}),
            **({"runtime": self._context.runtime} if must_deploy(self._context.runtime) else {}),
            **self._task.settings,
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the task's metric on the validation images, in [0, 1], after each epoch.

        An evaluation that was killed continues from its last checkpoint, to the same values.

        Raises TrainingError if the network finally gives the same output for every image. If only the loss stayed at
        chance, the first such network is reported.
        """
        path = self._checkpoint(arch, seed)
        if path and not saved_epochs(path):
            path.unlink(missing_ok=True)
        try:
            yield from self._train(arch, seed, path)
        except KeyboardInterrupt:  # the same command continues from it
            raise
        except BaseException:
            remove(path)
            raise
        remove(path)

    def saved(self, arch: Architecture, seed: int) -> int:
        """Return how many epochs of an evaluation that was killed it can continue from."""
        path = self._checkpoint(arch, seed)
        return saved_epochs(path) if path else 0

    def _checkpoint(self, arch: Architecture, seed: int) -> Path | None:
        """Return where an evaluation is saved; None if there is no run folder."""
        if not self._context.folder.name:
            return None
        settings = hex_digest(json.dumps(self.settings, sort_keys=True))
        return self._context.folder / CHECKPOINTS / f"{arch.digest}-{seed}-{settings}.pt"

    def _train(self, arch: Architecture, seed: int, path: Path | None) -> Iterator[float]:
        """Train a candidate and yield the metric after each epoch; see `evaluate`."""
        resolution = self._proxy.at(arch.resolution)
        model = build_seeded(arch.at(resolution), seed)
        if self._context.pretrained:
            self._context.pretrained.initialize(model, arch)
        curve: list[Epoch] = []
        watch = Watch(epoch=curve.append, warn=self._context.reporter.warn)
        train_set, validation = self._sets_at(resolution)
        recipe = suited(self._recipe, model)
        sets = train_set, validation
        values = train(model, self._task, *sets, recipe, seed, checkpoint=path, checkpoint_s=CHECKPOINT_S, watch=watch)
        yield from self._with_deployed(values, model, validation)
        if self._keeps_stuck:
            return
        if reason := constant_output(model, self._task, validation, pick_device()):
            raise TrainingError(reason)
        if not self._has_warned and (reason := chance_loss(curve, self._task, len(validation))):
            self._has_warned = True
            self._context.reporter.warn(f"{arch.digest}: {reason}; later candidates like this are not reported")

    def _with_deployed(self, values: Iterator[float], model: nn.Module, validation: TaskDataset) -> Iterator[float]:
        """Yield the metric of each epoch; the last one is that of the network as the runtime computes it."""
        runtime = self._context.runtime
        if not must_deploy(runtime):
            yield from values
            return
        for number, value in enumerate(values, 1):
            if number < self._recipe.epochs:
                yield value
        (report,) = deployed_reports(self._task, model, runtime, validation.resolution, [validation])
        yield report.metric_value

    def _sets_at(self, resolution: int) -> tuple[TaskDataset, TaskDataset]:
        """Return the training and validation images at a resolution. Those of the last few resolutions are cached."""
        if resolution == self._train_set.resolution:
            return self._train_set, self._validation
        if resolution not in self._sets:
            task, images = self._task, self._proxy.images
            self._sets[resolution] = task.train_set(resolution, images), task.validation_set(resolution)
        self._sets.move_to_end(resolution)
        if len(self._sets) > MAX_RESOLUTIONS:
            self._sets.popitem(last=False)
        return self._sets[resolution]


def remove(path: Path | None) -> None:
    """Remove the checkpoint of an evaluation that has ended, if there is one."""
    if path:
        path.unlink(missing_ok=True)
