"""Stuck trainings: finds networks that learned nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import nn

from nas.training.state import Epoch
from nas.training.tasks.base import Task, TaskDataset

IMAGES = 64
CHANCE = 0.01
"""How far below that of guessing a loss can be and still count as that of chance."""


@torch.no_grad()
def constant_output(model: nn.Module, task: Task, images: TaskDataset, device: torch.device) -> str:
    """Return the reason, if the network gives the same outputs for all images, else "". Leaves it in eval mode."""
    count = min(IMAGES, len(images))
    if count < 2:
        return ""
    batch = torch.stack([images[index * len(images) // count][0] for index in range(count)])
    if bool((batch == batch[:1]).all()):
        return ""
    is_constant = task.is_constant(task.outputs(model.eval(), batch.to(device)))
    return "the network gives the same output for every image, so it learned nothing" if is_constant else ""


def chance_loss(curve: Sequence[Epoch], task: Task, images: int) -> str:
    """Return the reason, if a training without a teacher stayed at chance, else "".

    Its loss stayed there in all epochs, and its last accuracy is there: among many epochs, some are better by chance.

    Args:
        curve: The epochs.
        task: The task, which knows what guessing reaches.
        images: How many validation images the accuracies are of.
    """
    guess, last = task.guessing, curve[-1].accuracy if curve else None
    if guess is None or last is None:
        return ""
    noise = 2 * sqrt(guess.accuracy * (1 - guess.accuracy) / images)
    if last > guess.accuracy + noise or any(epoch.loss < guess.loss - CHANCE for epoch in curve):
        return ""
    return f"the training loss never fell below that of guessing, {guess.formula} = {guess.loss:.3f}"


def training_problem(
    model: nn.Module, task: Task, validation: TaskDataset, curve: Sequence[Epoch], device: torch.device
) -> str:
    """Return why a finished training taught nothing, or ""."""
    return constant_output(model, task, validation, device) or chance_loss(curve, task, len(validation))


def advice(task: Task) -> str:
    """Return what may help a training that taught nothing."""
    mirrored = ", or --flip off if the classes differ in left and right" if task.flips else ""
    return f"a lower --learning-rate may help{mirrored}"
