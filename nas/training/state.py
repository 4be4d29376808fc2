"""The state of a training: everything that its steps change, saved to and restored from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.errors import WeightsError
from nas.training.checkpoint import load_checkpoint
from nas.training.recipe import Recipe, make_optimizer, make_schedule


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Attributes:
        number: The epoch, from 0.
        loss: The mean training loss.
        accuracy: The validation accuracy in [0, 1]; None if the task has none.
        learning_rate: The learning rate after the epoch.
        images_per_s: Training images per second.
        metric_value: The metric on the validation images; None if the metric is the accuracy.
    """

    number: int
    loss: float
    accuracy: float | None
    learning_rate: float
    images_per_s: float
    metric_value: float | None = None

    @property
    def value(self) -> float:
        """The metric on the validation images."""
        value = self.accuracy if self.metric_value is None else self.metric_value
        assert value is not None  # an epoch has one of them
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, without those that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass
class TrainingState:
    """The state of a training.

    Attributes:
        model: The network.
        average: The average of its weights, None if the recipe has none.
        optimizer: The optimizer.
        schedule: The learning-rate schedule.
        scaler: The scaler of the loss, for float16.
        batch_size: Images per step.
        steps: The number of steps of the whole training.
        reported: Images that were reported as progress.
        curve: The finished epochs.
    """

    model: nn.Module
    average: AveragedModel | None
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    batch_size: int
    steps: int
    reported: int = 0
    curve: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> nn.Module:
        """The network to validate: the average of weights if the recipe has one, the network otherwise."""
        return self.model if self.average is None else self.average.module

    def parts(self) -> dict[str, Any]:
        """Return the objects that have a state dict, by name."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def finish(self, epochs: int) -> None:
        """After the last epoch, replace the network's weights by their average, if the recipe has one."""
        if self.average is not None and len(self.curve) == epochs:
            self.model.load_state_dict(self.average.module.state_dict())


def start_state(model: nn.Module, recipe: Recipe, images: int, batch_size: int, device: torch.device) -> TrainingState:
    """Return the state before the first step of a training on `images` images. Incomplete batches are dropped."""
    steps = recipe.epochs * (images // batch_size)
    optimizer = make_optimizer(model, recipe)
    return TrainingState(
        model=model,
        average=_averaged(model, recipe, steps),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, recipe, steps),
        scaler=torch.amp.GradScaler(device.type, enabled=half_type(recipe, device) == torch.float16),
        batch_size=batch_size,
        steps=steps,
    )


def half_type(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, None without it. It is float16 only on a GPU without bfloat16."""
    if not recipe.amp:
        return None
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16


def _averaged(model: nn.Module, recipe: Recipe, steps: int) -> AveragedModel | None:
    """Return the running average of parameters that a training of `steps` steps validates; None without one.

    Buffers are copied; batch-norm statistics are recalibrated later.
    """
    if not (recipe.ema_decay or recipe.ema_share or recipe.average_last):
        return None
    decay = recipe.ema_decay or 1 - 1 / max(1.0, recipe.ema_share * steps)
    first = steps - max(1, round(recipe.average_last * steps))

    def decay_after(updates: int) -> float:
        if recipe.average_last:
            return 1 - 1 / max(1, updates - first + 1)
        return min(decay, (1 + updates) / (10 + updates))

    def average(averaged: Any, current: Any, count: Tensor | int) -> None:
        update: Any = get_ema_multi_avg_fn(decay_after(int(count)))  # type: ignore[no-untyped-call]
        update(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average)


def state_to_dict(state: TrainingState) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain values."""
    parts = {name: part.state_dict() for name, part in state.parts().items()}
    return {**parts, "batch_size": state.batch_size, "curve": [epoch.to_dict() for epoch in state.curve]}


def restore_state(
    state: TrainingState,
    path: Path,
    identity: Mapping[str, Any],
    recipe: Recipe,
    images: int,
    device: torch.device,
) -> TrainingState:
    """Return the state of a checkpoint, or the given fresh `state` if the file does not exist.

    Raises:
        WeightsError: The file is not a checkpoint, belongs to another training, or does not fit the network.
    """
    found = load_checkpoint(path, identity)
    if found is None:
        return state
    try:
        if found["batch_size"] != state.batch_size:  # the training restarted with half the batch size
            state = start_state(state.model, recipe, images, found["batch_size"], device)
        for name, part in state.parts().items():
            part.load_state_dict(found[name])
        state.curve = [Epoch(**{"accuracy": None, **epoch}) for epoch in found["curve"]]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"does not hold the state of this training: {reason}", where=path) from error
    state.finish(recipe.epochs)
    return state
