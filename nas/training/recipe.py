"""How to train: every setting in one value, the named ones, and the optimizers and schedules that they name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from nas.errors import UsageError
from nas.utils.registry import lookup

RMSPROP_EPS = 0.0316
"""The root of 1e-3, which TensorFlow adds under the root and torch beside it: MnasNet's and EfficientNet's epsilon."""


@dataclass(frozen=True)
class Recipe:
    """How to train. As it stands: AdamW under one cycle of warm-up and cosine decay. Raises UsageError."""

    epochs: int
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    """On every parameter with AdamW; on none of batch norms and biases with SGD and RMSProp (He et al. 2019, 3.1)."""
    group_lasso: float = 1e-5
    """Weight of the penalty on learned groups (CondenseNet's on ImageNet); networks without them have none."""
    optimizer: str = "adamw"
    momentum: float = 0.9
    """Of SGD (Nesterov's) and RMSProp. AdamW's is cycled from 0.95 to 0.85 and back by onecycle, and 0.9 otherwise."""
    schedule: str = "onecycle"
    warmup_epochs: float = 0.0
    """Epochs of the linear warm-up that precedes `cosine`; onecycle warms up for a fifth of the training."""
    label_smoothing: float = 0.1
    clip: float = 5.0
    """Largest norm of all gradients together; 0: they are not clipped."""
    ema_decay: float = 0.0
    """Decay of the average of weights that is validated and returned, min(ema_decay, (1 + step) / (10 + step)) as
    TensorFlow's is, so that a short training is not held at its start; 0: no average."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al. 2018); with cutmix, each batch takes one of both."""
    cutmix: float = 0.0
    randaugment: int = 0
    """Magnitude, of at most 30, of RandAugment's two operations on each image (Cubuk et al. 2020); 0: none."""
    drop_connect: float = 0.0
    """Rate at the last block of a Network, linear in depth (EfficientNet, section 5)."""
    amp: bool = False
    """Forward in bfloat16, or in float16 with scaled losses on a GPU without it. Accuracies are those in float32."""
    distill_weight: float = 0.5
    """Share of a teacher's outputs in the loss, the labels have the rest; without a teacher it means nothing."""
    distill_temperature: float = 4.0

    def __post_init__(self) -> None:
        for key, (holds, rule) in _RULES.items():
            if not holds(getattr(self, key)):
                raise UsageError(f"--{key.replace('_', '-')}: must be {rule}: {getattr(self, key)}")
        if self.warmup_epochs >= self.epochs:
            raise UsageError(f"--warmup-epochs: must be below --epochs, {self.epochs}: {self.warmup_epochs:g}")
        lookup(OPTIMIZERS, self.optimizer, "optimizer", "--optimizer")
        lookup(SCHEDULES, self.schedule, "schedule", "--schedule")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda value: 0 < value < math.inf, "above 0")
_WEIGHT: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < math.inf, "at least 0")
_SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: value >= 1, "at least 1"),
    "batch_size": (lambda value: value >= 2, "at least 2"),
    "learning_rate": _POSITIVE,
    "weight_decay": _WEIGHT,
    "group_lasso": _WEIGHT,
    "momentum": _SHARE,
    "warmup_epochs": _WEIGHT,
    "label_smoothing": _SHARE,
    "clip": _WEIGHT,
    "ema_decay": _SHARE,
    "mixup": _WEIGHT,
    "cutmix": _WEIGHT,
    "randaugment": (lambda value: 0 <= value <= 30, "from 0 to 30"),
    "drop_connect": _SHARE,
    "distill_weight": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "distill_temperature": _POSITIVE,
}


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimizer over the parameters of `model`."""
    return lookup(OPTIMIZERS, recipe.optimizer, "optimizer", "--optimizer")(model, recipe)


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Return the recipe's schedule over `steps` steps in all, stepped once after each."""
    return lookup(SCHEDULES, recipe.schedule, "schedule", "--schedule")(optimizer, recipe, steps)


def _adamw(model: nn.Module, recipe: Recipe) -> Optimizer:
    return AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)


def _sgd(model: nn.Module, recipe: Recipe) -> Optimizer:
    return SGD(
        _groups(model, recipe.weight_decay),
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def _rmsprop(model: nn.Module, recipe: Recipe) -> Optimizer:
    return RMSprop(
        _groups(model, recipe.weight_decay),
        recipe.learning_rate,
        alpha=0.9,
        eps=RMSPROP_EPS,
        momentum=recipe.momentum,
    )


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the weights of convolutions and linear layers, which decay, and all else, which does not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def one_cycle(optimizer: Optimizer, learning_rate: float, steps: int, momentum: bool = True) -> LRScheduler:
    """Return one cycle over so many steps that rises over the first fifth of them."""
    rises = 0.25 if steps == 5 else 0.2  # a fifth of five steps is one, and torch divides by one less
    return OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=rises, cycle_momentum=momentum)


def _onecycle(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    cycles = recipe.optimizer == "adamw"  # the others keep the momentum that the recipe gives them
    return one_cycle(optimizer, recipe.learning_rate, steps, cycles)


def _cosine(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    warm = round(steps * recipe.warmup_epochs / recipe.epochs)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return LambdaLR(optimizer, factor)


OPTIMIZERS: dict[str, Callable[[nn.Module, Recipe], Optimizer]] = {
    "adamw": _adamw,
    "rmsprop": _rmsprop,
    "sgd": _sgd,
}
SCHEDULES: dict[str, Callable[[Optimizer, Recipe, int], LRScheduler]] = {
    "cosine": _cosine,
    "onecycle": _onecycle,
}

RECIPES = {
    "default": Recipe(30),
    "imagenet": Recipe(
        350,
        batch_size=256,
        learning_rate=0.016,
        weight_decay=1e-5,
        optimizer="rmsprop",
        schedule="cosine",
        warmup_epochs=5.0,
        clip=0.0,
        ema_decay=0.9999,
        randaugment=9,
        drop_connect=0.2,
    ),
}
"""`imagenet` is MnasNet's and EfficientNet's (section 5): RMSProp of decay and momentum 0.9, 0.256 for a batch of 4096.
Other than theirs are the cosine for steps of 0.97 each 2.4 epochs, and RandAugment for AutoAugment."""
