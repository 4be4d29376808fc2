"""Training recipes: all settings in one value, the named recipes, and their optimizers and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from nas.architecture import Architecture
from nas.errors import SpaceError, UsageError
from nas.networks.network import trace
from nas.spaces.trainings import MOST_BRANCHES
from nas.utils.registry import lookup
from nas.utils.run_identity import FORMER_RECIPE

RMSPROP_EPS = 0.0316
"""MnasNet's and EfficientNet's epsilon: TensorFlow adds 1e-3 under the root, torch adds its root outside."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are AdamW with one cycle of warm-up and cosine decay.

    Raises UsageError for an invalid setting.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        weight_decay: Applies to the weights of convolutions and linear layers (He et al. 2019, 3.1).
        decay_norms: Whether AdamW also decays batch norms and biases. SGD and RMSProp never do.
        group_lasso: Weight of the penalty on learned groups, CondenseNet's on ImageNet. Other networks have none.
        optimizer: A key of `OPTIMIZERS`.
        momentum: Momentum of SGD (Nesterov) and RMSProp. AdamW's is 0.9; onecycle varies it between 0.95 and 0.85.
        schedule: A key of `SCHEDULES`.
        warmup_epochs: Epochs of linear warm-up before `cosine`. onecycle warms up for a fifth of the training.
        label_smoothing: Share of the label that is spread over all classes.
        clip: Largest norm of all gradients together; 0: no clipping.
        ema_decay: Decay of the average of weights that is validated and returned; 0: no average. At first the decay is
            smaller, (1 + step) / (10 + step) as in TensorFlow, so that the initial weights soon lose their influence.
        ema_share: The same average with a decay that suits the length of the training: it averages over about this
            share of all steps. 0: no such average.
        average_last: Share of the steps, at the end, whose weights are averaged equally (Izmailov et al. 2018).
        mixup: Alpha of mixup's Beta distribution (Zhang et al. 2018). With cutmix, each batch uses one of the two.
        cutmix: Alpha of CutMix (Yun et al. 2019).
        crop_scale: Smallest share of an image's area that a random resized crop keeps (Szegedy et al. 2015, section
            6). 0: crops of the full size, after padding by an eighth.
        first_size: Resolution of the first epochs as a share of the full one, from which it grows (Tan and Le 2021,
            section 4). The last epochs train at the full resolution. 1: all do.
        randaugment: Magnitude, up to 30, of RandAugment's two operations per image (Cubuk et al. 2020); 0: none.
        drop_connect: Rate at the last block of a `Network`, linear in depth (EfficientNet, section 5).
        amp: Whether the forward pass uses bfloat16, or float16 with scaled losses on a GPU without bfloat16.
            Accuracies are measured in float32.
        branches: Number of k x k branches of each convolution while it trains, see `nas.training.branches`; 0: none.
        distill_weight: Weight of the teacher's outputs in the loss; the labels have the rest.
        distill_temperature: Temperature that softens both outputs for the distillation loss.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    group_lasso: float = 1e-5
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "onecycle"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.1
    clip: float = 5.0
    ema_decay: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: int = 0
    drop_connect: float = 0.0
    amp: bool = False
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    decay_norms: bool = True
    ema_share: float = 0.0
    average_last: float = 0.0
    crop_scale: float = 0.0
    first_size: float = 1.0
    branches: int = 0

    def __post_init__(self) -> None:
        for key, (holds, rule) in _RULES.items():
            if not holds(getattr(self, key)):
                raise UsageError(f"must be {rule}", key=key, value=getattr(self, key))
        if self.warmup_epochs >= self.epochs:
            raise UsageError(f"must be below --epochs, {self.epochs}", key="warmup_epochs", value=self.warmup_epochs)
        if len(used := [key for key in AVERAGES if getattr(self, key)]) > 1:
            rule = f"must be 0 with --{used[0].replace('_', '-')}"
            raise UsageError(rule, key=used[1], value=getattr(self, used[1]))
        lookup(OPTIMIZERS, self.optimizer, "optimizer", "--optimizer")
        lookup(SCHEDULES, self.schedule, "schedule", "--schedule")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings by name. Those of `ADDED` are left out while they have their default."""
        return {key: value for key, value in asdict(self).items() if key not in ADDED or value != ADDED[key]}


ADDED = FORMER_RECIPE
"""Settings that older trainings lack, with the values that these trainings had."""
AVERAGES = ("ema_decay", "ema_share", "average_last")
"""Settings for averages of weights. A recipe has at most one average."""


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other settings. An average of weights in `settings` replaces that of the recipe."""
    if any(settings.get(key) for key in AVERAGES):
        settings = {**dict.fromkeys(AVERAGES, 0.0), **settings}
    return replace(recipe, **settings)


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
    "ema_share": _SHARE,
    "average_last": _SHARE,
    "mixup": _WEIGHT,
    "cutmix": _WEIGHT,
    "crop_scale": _SHARE,
    "first_size": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "randaugment": (lambda value: 0 <= value <= 30, "from 0 to 30"),
    "drop_connect": _SHARE,
    "branches": (lambda value: 0 <= value <= MOST_BRANCHES, f"from 0 to {MOST_BRANCHES}"),
    "distill_weight": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "distill_temperature": _POSITIVE,
}


NORMALIZATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
UNNORMALIZED = 6
"""The default learning rate is divided by this for networks without normalization layers, such as SqueezeNet.

With all of it, SqueezeNet's last activations become 0 for every image within the first steps.
"""


def suited(recipe: Recipe, model: nn.Module) -> Recipe:
    """Return the recipe, with a lower learning rate for a network that has no normalization layers."""
    if any(isinstance(module, NORMALIZATION) for module in model.modules()):
        return recipe
    return replace(recipe, learning_rate=recipe.learning_rate / UNNORMALIZED)


def batch_size(recipe: Recipe, images: int) -> int:
    """Return the images per step of a training on `images` images: it has at least two steps per epoch."""
    return min(recipe.batch_size, max(2, images // 2))


GROWING = 0.6
"""The share of the epochs in which the resolution grows, with `first_size` below 1."""
SIZE_STEP = 16
"""Resolutions below the full one are multiples of this."""


def size_at(recipe: Recipe, resolution: int, epoch: int) -> int:
    """Return the resolution, in pixels, at which an epoch (from 0) of a training at `resolution` trains."""
    growing = min(recipe.epochs - 1, round(GROWING * recipe.epochs))
    if epoch >= growing:
        return resolution
    share = recipe.first_size + (1 - recipe.first_size) * epoch / growing
    return min(resolution, max(SIZE_STEP, SIZE_STEP * round(share * resolution / SIZE_STEP)))


def buildable(arch: Architecture, resolution: int) -> bool:
    """Return whether a network can be built at a resolution: maps of a detector may vanish at a low one."""
    try:
        trace(arch.at(resolution))
    except SpaceError:
        return False
    return True


def with_buildable_sizes(recipe: Recipe, arch: Architecture) -> Recipe:
    """Return the recipe; without growing images if the network cannot be built at their first resolution."""
    first = size_at(recipe, arch.resolution, 0)
    return recipe if buildable(arch, first) else replace(recipe, first_size=1.0)


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimizer over the parameters of `model`."""
    return lookup(OPTIMIZERS, recipe.optimizer, "optimizer", "--optimizer")(model, recipe)


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Return the recipe's schedule for a training of `steps` steps. Step it once after each of them."""
    return lookup(SCHEDULES, recipe.schedule, "schedule", "--schedule")(optimizer, recipe, steps)


def _adamw(model: nn.Module, recipe: Recipe) -> Optimizer:
    parameters = model.parameters() if recipe.decay_norms else _parameter_groups(model, recipe.weight_decay)
    return AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)


def _sgd(model: nn.Module, recipe: Recipe) -> Optimizer:
    return SGD(
        _parameter_groups(model, recipe.weight_decay),
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def _rmsprop(model: nn.Module, recipe: Recipe) -> Optimizer:
    return RMSprop(
        _parameter_groups(model, recipe.weight_decay),
        recipe.learning_rate,
        alpha=0.9,
        eps=RMSPROP_EPS,
        momentum=recipe.momentum,
    )


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: weights of convolutions and linear layers, which decay, and all others, which do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def one_cycle(optimizer: Optimizer, learning_rate: float, steps: int, momentum: bool = True) -> LRScheduler:
    """Return one cycle over `steps` steps; the learning rate rises during the first fifth of them."""
    rising = 0.25 if steps == 5 else 0.2  # a fifth of 5 steps is 1 step, for which torch divides by zero
    return OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=rising, cycle_momentum=momentum)


def _onecycle(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    cycles = recipe.optimizer == "adamw"  # other optimizers keep the recipe's momentum
    return one_cycle(optimizer, recipe.learning_rate, steps, cycles)


def _cosine(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    warmup = round(steps * recipe.warmup_epochs / recipe.epochs)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

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

ONECYCLE = Recipe(30)
"""The former default of `nas train`."""
CANDIDATES = ONECYCLE
"""How a search trains candidates, for `proxy.epochs` epochs. Earlier runs continue with it, so it never changes."""
WINNERS = Recipe(30, learning_rate=1e-3, decay_norms=False, crop_scale=0.35, first_size=0.5)
"""How a network is trained that is to be deployed: `nas train`, and the full training of a search's winner."""
RECIPES = {
    "default": WINNERS,
    "onecycle": ONECYCLE,
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
"""`imagenet` follows MnasNet and EfficientNet (section 5): RMSProp with decay and momentum 0.9, and a learning rate of
0.256 for a batch of 4096. It differs in two points: a cosine schedule instead of a decay by 0.97 every 2.4 epochs, and
RandAugment instead of AutoAugment."""
