"""The time of trainings on this machine: measured on a few networks for a second each, predicted for all others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from nas.architecture import Architecture
from nas.networks.network import build, totals, trace
from nas.spaces.trainings import Proxy
from nas.training.loop import RECALIBRATION_BATCHES, pick_device
from nas.training.recipe import Recipe, batch_size, make_optimizer
from nas.training.tasks.base import Task, make_loader

MEASURE_S = 0.8
"""How long each network is timed."""
FEWEST_STEPS = 3
FORWARD_SHARE = 0.35
"""The time of a forward pass as a share of a training step."""
EPOCH_S = 0.03
"""What an epoch takes beside its images."""


@dataclass(frozen=True)
class TrainingCost:
    """The time that trainings take on this machine.

    The seconds for each image are linear in the elements that the network reads and writes. MACs predict them worse: at
    64 px, a MAC took 0.02 ns in VoVNet-57 and 0.3 ns in ShuffleNet, an element 0.4 to 0.9 ns.

    Attributes:
        base_s: Seconds for each training image of any network.
        per_element_s: Further seconds for each element that the network reads or writes.
        images: The training images of the data set.
        validation: The validation images.
        batch_size: Images of a step.
    """

    base_s: float
    per_element_s: float
    images: int
    validation: int
    batch_size: int

    def image_s(self, arch: Architecture) -> float:
        """Return the seconds that a training image takes in a network at its resolution."""
        return self.base_s + self.per_element_s * elements(arch)

    def training_s(self, arch: Architecture, proxy: Proxy) -> float:
        """Return the seconds of a training as `proxy` describes it, with validation and recalibration."""
        image_s = self.image_s(arch.at(proxy.at(arch.resolution)))
        images = min(proxy.images or self.images, self.images)
        batch = batch_size(Recipe(1, self.batch_size), images)
        tested = self.validation + min(images, RECALIBRATION_BATCHES * batch)
        small = min(4.0, self.batch_size / batch)  # a step of few images takes more time for each of them
        return proxy.epochs * (EPOCH_S + image_s * (small * images + FORWARD_SHARE * tested))


def elements(arch: Architecture) -> int:
    """Return how many elements a network reads and writes for an image."""
    return totals(trace(arch)).memory_access


def measure_training_cost(
    archs: Sequence[Architecture], proxy: Proxy, task: Task, longest_s: float = math.inf
) -> TrainingCost:
    """Time the training of some networks at the proxy's resolution and return the fitted cost.

    Weights are random. Both coefficients are at least 0 and minimize the squared relative errors.

    Args:
        archs: The networks, the smallest first.
        proxy: Its resolution is used.
        task: The data set.
        longest_s: After a network that takes longer for an image, in seconds, no larger one is timed: it might need
            more memory than there is.
    """
    from scipy.optimize import nnls

    points = []
    for arch in archs:
        sized = arch.at(proxy.at(arch.resolution))
        points.append((float(elements(sized)), time_training(sized, task)))
        if points[-1][1] > longest_s:
            break
    counts, seconds = (np.array(values) for values in zip(*points, strict=True))
    parts = np.stack([np.full_like(counts, 1.0), counts / counts.max()], axis=1) / seconds[:, None]
    base, slope = nnls(parts, np.ones(len(seconds)))[0]
    data = task.data
    slope_s = float(slope / counts.max())
    return TrainingCost(float(base), slope_s, len(data.train), len(data.validation), task.batch_size)


def time_training(arch: Architecture, task: Task) -> float:
    """Return the seconds that a training step takes for each image, the median of some steps after a warm-up.

    The augmentation of the images is included. torch's global random state does not change.

    Args:
        arch: The network.
        task: The data set.
    """
    recipe, device = Recipe(1, task.batch_size), pick_device()
    train_set = task.train_set(arch.resolution, min(len(task.data.train), max(recipe.batch_size, task.num_classes)))
    loader = make_loader(task, train_set, batch_size(recipe, len(train_set)), shuffle=True, drop_last=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(arch).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(model.train(), recipe)
        steps: list[float] = []
        begun = time.perf_counter()
        while len(steps) <= FEWEST_STEPS or time.perf_counter() - begun < MEASURE_S:
            started = time.perf_counter()
            images, targets = task.move(next(iter(loader)), device)
            loss = task.loss(task.outputs(model, images.contiguous(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # waits for a GPU
            steps.append((time.perf_counter() - started) / len(images))
    return median(steps[1:])
