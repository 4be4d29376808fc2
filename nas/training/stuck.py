"""Stuck trainings: finds networks that learned nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from nas.training.state import Epoch
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset

IMAGES = 64
CONSTANT = 1e-6
"""Outputs count as constant if no logit's standard deviation over images exceeds this share of the largest logit."""
CHANCE = 0.01
"""How far below ln(classes) a loss can be and still be that of chance."""


@torch.no_grad()
def constant_output(model: nn.Module, task: Classification, images: ImageDataset, device: torch.device) -> str:
    """Return the reason, if the network gives the same logits for all images, else "". Leaves it in eval mode."""
    count = min(IMAGES, len(images))
    if count < 2:
        return ""
    batch = torch.stack([images[index * len(images) // count][0] for index in range(count)])
    if bool((batch == batch[:1]).all()):
        return ""
    logits = task.logits(model.eval(), batch.to(device)).double()
    spread, largest = logits.std(0).max().item(), logits.abs().max().item()
    is_constant = spread <= CONSTANT * largest
    return "the network gives the same output for every image, so it learned nothing" if is_constant else ""


def chance_loss(curve: Sequence[Epoch], task: Classification, images: int) -> str:
    """Return the reason, if a training without a teacher stayed at chance, else "".

    Its loss stayed there in all epochs, and its last accuracy is there: among many epochs, some are better by chance.

    Args:
        curve: The epochs.
        task: The task, whose classes decide what chance is.
        images: How many validation images the accuracies are of.
    """
    guess, share = math.log(task.num_classes), 1 / task.num_classes
    noise = 2 * math.sqrt(share * (1 - share) / images)
    if not curve or curve[-1].accuracy > share + noise or any(epoch.loss < guess - CHANCE for epoch in curve):
        return ""
    return f"the training loss never fell below that of guessing, ln({task.num_classes}) = {guess:.3f}"


def training_problem(
    model: nn.Module, task: Classification, validation: ImageDataset, curve: Sequence[Epoch], device: torch.device
) -> str:
    """Return why a finished training taught nothing, or ""."""
    return constant_output(model, task, validation, device) or chance_loss(curve, task, len(validation))


def advice(task: Classification) -> str:
    """Return what may help a training that taught nothing."""
    mirrored = ", or --flip off if the classes differ in left and right" if task.flips else ""
    return f"a lower --learning-rate may help{mirrored}"
