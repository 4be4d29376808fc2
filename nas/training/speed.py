"""How fast a network trains on this machine, and how long a whole training takes."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from nas.architecture import Architecture
from nas.networks.network import build
from nas.training.loop import RECALIBRATION_BATCHES, Watch, pick_device, recalibrate, train
from nas.training.recipe import Recipe, batch_size, size_at, with_buildable_sizes
from nas.training.tasks.base import Task, TaskDataset, make_loader
from nas.training.tasks.image_datasets import fits_memory

WARM_UP = 3
"""Steps before the measurement."""
BATCHES = 16
"""Batches of images that are decoded for a measurement, if all images fit into memory."""
VALIDATED = 64
"""Validation images of a measurement."""
MANY = 1_000_000
"""Epochs of a measured training: more than it finishes."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class TrainingSpeed:
    """The seconds that the parts of a training take for one image.

    Attributes:
        resolution: The deployed resolution in pixels.
        step_s: Seconds of a training step for one image, by the resolution at which the step trains.
        recalibration_s: Seconds for one image of the recalibration of batch norms after an epoch.
        validation_s: Seconds for one validation image.
    """

    resolution: int
    step_s: Mapping[int, float]
    recalibration_s: float
    validation_s: float

    @property
    def images_per_s(self) -> float:
        """Training images per second at the deployed resolution."""
        return 1 / self.step_s[self.resolution]

    def at(self, size: int) -> float:
        """Return the seconds of a step for one image at `size` pixels: linear in the pixels between measured sizes."""
        low, high = min(self.step_s), max(self.step_s)
        if low == high:
            return self.step_s[high]
        share = (size**2 - low**2) / (high**2 - low**2)
        return self.step_s[low] + share * (self.step_s[high] - self.step_s[low])

    def seconds(self, recipe: Recipe, images: int, validation_images: int) -> float:
        """Return the seconds of a whole training, with its recalibrations and validations.

        Args:
            recipe: The recipe whose speed this is, with any number of epochs.
            images: The number of training images.
            validation_images: The number of validation images.
        """
        batch = batch_size(recipe, images)
        trained = images // batch * batch  # incomplete batches are dropped
        steps_s = sum(trained * self.at(size_at(recipe, self.resolution, epoch)) for epoch in range(recipe.epochs))
        recalibrated = min(trained, RECALIBRATION_BATCHES * batch)
        after_s = recalibrated * self.recalibration_s + validation_images * self.validation_s
        return steps_s + recipe.epochs * after_s

    def epochs_within(self, seconds: float, recipe: Recipe, images: int, validation_images: int) -> int:
        """Return the largest number of epochs, at least 1, whose training takes at most `seconds`."""
        low, high = 1, 2
        while self._fits(high, seconds, recipe, images, validation_images):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self._fits(middle, seconds, recipe, images, validation_images)
            low, high = (middle, high) if fits else (low, middle)
        return low

    def _fits(self, epochs: int, seconds: float, recipe: Recipe, images: int, validation_images: int) -> bool:
        warmup = min(recipe.warmup_epochs, epochs / 2)
        longer = replace(recipe, epochs=epochs, warmup_epochs=warmup)
        return self.seconds(longer, images, validation_images) <= seconds


def measure_speed(
    arch: Architecture, task: Task, recipe: Recipe, seconds: float = 3.0, clock: Clock = time.perf_counter
) -> TrainingSpeed:
    """Measure how fast an architecture trains at its resolution, on real images and after a warm-up.

    Args:
        arch: The architecture, with a head for the task's classes.
        task: The task. Images that fit into memory are decoded first; others are decoded while the network trains.
        recipe: How to train. Its number of epochs has no effect.
        seconds: How long to measure the steps of one resolution, at least.
        clock: Returns seconds: time.perf_counter, or time.process_time for those of the processor.

    Raises:
        TrainingError: The loss is not finite, or the memory is exhausted.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(arch)
    sets = train_set, validation = _sets(task, arch.resolution, recipe)
    recipe = with_buildable_sizes(replace(recipe, epochs=MANY, warmup_epochs=0.0), arch)
    steps_s = {}
    for size in sorted({size_at(recipe, arch.resolution, 0), arch.resolution}):
        at_size = recipe if size < arch.resolution else replace(recipe, first_size=1.0)
        steps_s[size] = _Steps(at_size, seconds, clock).measure(copy.deepcopy(model), task, sets)
    device = pick_device()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = make_loader(task, train_set, min(recipe.batch_size, len(train_set)))
    task.evaluate(model, validation, device)
    return TrainingSpeed(
        resolution=arch.resolution,
        step_s=steps_s,
        recalibration_s=_timed(lambda: recalibrate(model, loader, device), clock)
        / min(len(train_set), RECALIBRATION_BATCHES * recipe.batch_size),
        validation_s=_timed(lambda: task.evaluate(model, validation, device), clock) / len(validation),
    )


def _sets(task: Task, resolution: int, recipe: Recipe) -> tuple[TaskDataset, TaskDataset]:
    """Return training and validation images: some, or all training images if they are too many to decode first."""
    shape = task.input.shape(resolution)
    images = max(task.num_classes, BATCHES * recipe.batch_size) if fits_memory(len(task.data.train), shape) else 0
    return task.train_set(resolution, images), task.validation_set(resolution, max(task.num_classes, VALIDATED))


def _timed(call: Callable[[], object], clock: Clock) -> float:
    begun = clock()
    call()
    return clock() - begun


class _EnoughError(Exception):
    """The measurement has lasted long enough."""


class _Steps:
    """Measures the steps of a training, without what happens between its epochs."""

    def __init__(self, recipe: Recipe, seconds: float, clock: Clock):
        self._recipe, self._limit, self._clock = recipe, seconds, clock
        self._batch, self._steps, self._images, self._spent, self._last = 0, 0, 0, 0.0, 0.0

    def measure(self, model: nn.Module, task: Task, sets: tuple[TaskDataset, TaskDataset]) -> float:
        """Train for a while and return the seconds of a step for one image."""
        watch = Watch(images=self._stepped, epoch=lambda epoch: self._begin())
        self._batch = batch_size(self._recipe, len(sets[0]))
        self._begin()
        with contextlib.suppress(_EnoughError):
            for _ in train(model, task, *sets, self._recipe, 0, watch=watch):
                pass
        return self._spent / self._images

    def _begin(self) -> None:
        self._last = self._clock()

    def _stepped(self, images: int) -> None:
        """Count a step, or nothing at the end of an epoch, when the images that no step has seen are reported."""
        now = self._clock()
        if images >= self._batch:
            self._steps += 1
            if self._steps > WARM_UP:
                self._images, self._spent = self._images + images, self._spent + now - self._last
            if self._spent >= self._limit:
                raise _EnoughError
        self._last = now
