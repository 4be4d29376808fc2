"""What the steps of a training change: how it starts, and its way into a checkpoint and back."""

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
    """One epoch of a curve: the mean loss, the validation accuracy in [0, 1], the last learning rate, images/s."""

    number: int
    loss: float
    accuracy: float
    learning_rate: float
    images_per_s: float


@dataclass
class TrainingState:
    """What a step changes, and a checkpoint holds."""

    model: nn.Module
    average: AveragedModel | None
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    batch_size: int
    steps: int
    """All steps of the training."""
    told: int = 0
    """Images that the watch was told of."""
    curve: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> nn.Module:
        """The network that is validated: the average of weights where there is one."""
        return self.model if self.average is None else self.average.module

    def parts(self) -> dict[str, Any]:
        """Return what has a state dict, by name."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def finish(self, epochs: int) -> None:
        """Give the network the average of its weights, if there is one and all epochs are over."""
        if self.average is not None and len(self.curve) == epochs:
            self.model.load_state_dict(self.average.module.state_dict())


def start(model: nn.Module, recipe: Recipe, images: int, batch_size: int, device: torch.device) -> TrainingState:
    """Return the state before the first step of a training on `images` images, in whole batches."""
    steps = recipe.epochs * (images // batch_size)
    optimizer = make_optimizer(model, recipe)
    return TrainingState(
        model=model,
        average=_averaged(model, recipe.ema_decay) if recipe.ema_decay else None,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, recipe, steps),
        scaler=torch.amp.GradScaler(device.type, enabled=half_type(recipe, device) == torch.float16),
        batch_size=batch_size,
        steps=steps,
    )


def half_type(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, None for none: float16 only on a GPU that has no bfloat16."""
    if not recipe.amp:
        return None
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return the running average of parameters; buffers are copied: masks as they are, statistics to be made anew."""

    def average(averaged: Any, current: Any, count: Tensor | int) -> None:
        updates = int(count)
        update: Any = get_ema_multi_avg_fn(min(decay, (1 + updates) / (10 + updates)))  # type: ignore[no-untyped-call]
        update(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average)


def stored(state: TrainingState) -> dict[str, Any]:
    """Return what a checkpoint keeps of a state: tensors and plain values."""
    parts = {name: part.state_dict() for name, part in state.parts().items()}
    return {**parts, "batch_size": state.batch_size, "curve": [asdict(epoch) for epoch in state.curve]}


def continued(
    state: TrainingState,
    path: Path,
    identity: Mapping[str, Any],
    recipe: Recipe,
    images: int,
    device: torch.device,
) -> TrainingState:
    """Return the state that a checkpoint holds, or `state`, a fresh one, where there is no file.

    Raises WeightsError where the file is no checkpoint, another training's, or does not fit.
    """
    found = load_checkpoint(path, identity)
    if found is None:
        return state
    try:
        if found["batch_size"] != state.batch_size:  # it started over with half the batch
            state = start(state.model, recipe, images, found["batch_size"], device)
        for name, part in state.parts().items():
            part.load_state_dict(found[name])
        state.curve = [Epoch(**epoch) for epoch in found["curve"]]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path}: does not hold this training's state: {reason}") from error
    state.finish(recipe.epochs)
    return state
