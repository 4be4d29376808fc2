"""Every optimizer with every schedule, and what a recipe refuses."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from nas.cli.train import _RECIPE_FLAGS
from nas.errors import UsageError
from nas.training.recipe import (
    ADDED,
    CANDIDATES,
    OPTIMIZERS,
    RECIPES,
    SCHEDULES,
    Recipe,
    make_optimizer,
    make_schedule,
    size_at,
)

STEPS = 20


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def losses(recipe: Recipe, restart_at: int | None = None) -> list[float]:
    """Train on one batch; at `restart_at` go on with a new optimizer and schedule in the state of the old ones."""
    model = small()
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, STEPS)
    found = []
    for step in range(STEPS):
        if step == restart_at:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer = make_optimizer(model, recipe)
            schedule = make_schedule(optimizer, recipe, STEPS)
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_and_a_stored_state_goes_on(optimizer: str, schedule: str) -> None:
    recipe = Recipe(10, optimizer=optimizer, schedule=schedule, learning_rate=0.01)
    found = losses(recipe)
    assert found[-1] < 0.5 * found[0]
    assert losses(recipe, restart_at=9) == found


def rates(recipe: Recipe, steps: int) -> list[float]:
    optimizer = make_optimizer(small(), recipe)
    schedule = make_schedule(optimizer, recipe, steps)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


def test_cosine_warms_up_and_falls_to_nothing() -> None:
    found = rates(Recipe(10, optimizer="sgd", schedule="cosine", learning_rate=0.4, warmup_epochs=2.0), 100)
    assert found[:21] == pytest.approx([0.4 * (step + 1) / 21 for step in range(21)])
    assert found[60] == pytest.approx(0.2)
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[-1] == pytest.approx(0.2 * (1 + math.cos(math.pi * 79 / 80)))


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_shortest_trainings_have_rates_too(schedule: str, steps: int) -> None:
    found = rates(Recipe(1, schedule=schedule), steps)
    assert all(0 < rate <= Recipe.learning_rate for rate in found)


def test_onecycle_leaves_the_momentum_of_sgd_alone_and_cycles_that_of_adamw() -> None:
    for name in ("sgd", "rmsprop"):
        recipe = Recipe(2, optimizer=name, momentum=0.8)
        optimizer = make_optimizer(small(), recipe)
        make_schedule(optimizer, recipe, 10)
        assert [group["momentum"] for group in optimizer.param_groups] == [0.8, 0.8]
    optimizer = make_optimizer(small(), Recipe(2))
    make_schedule(optimizer, Recipe(2), 10)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    assert max(rates(Recipe(2), 10)) == pytest.approx(3e-3, rel=0.01)


@pytest.mark.parametrize(("name", "decayed"), [("adamw", 6), ("rmsprop", 2), ("sgd", 2)])
def test_which_parameters_decay(name: str, decayed: int) -> None:
    optimizer = make_optimizer(small(), Recipe(2, optimizer=name, weight_decay=0.1))
    counts = [len(group["params"]) for group in optimizer.param_groups if group["weight_decay"] == 0.1]
    assert sum(counts) == decayed
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_adamw_can_leave_norms_and_biases_alone() -> None:
    optimizer = make_optimizer(small(), Recipe(2, weight_decay=0.1, decay_norms=False))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(2, 0.1), (4, 0.0)]


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 30])
@pytest.mark.parametrize(("resolution", "first"), [(224, 0.5), (64, 0.5), (100, 0.3), (8, 0.5), (32, 1.0)])
def test_sizes_grow_to_the_resolution(epochs: int, resolution: int, first: float) -> None:
    found = [size_at(Recipe(epochs, first_size=first), resolution, epoch) for epoch in range(epochs)]
    assert found == sorted(found)
    assert found[-1] == resolution
    assert all(size % 16 == 0 or size == resolution for size in found)
    assert found.count(resolution) >= max(1, int(0.4 * epochs))
    if first == 1.0:
        assert set(found) == {resolution}
    elif epochs == 30 and resolution > 16:
        assert found[0] == 16 * round(first * resolution / 16)


def test_settings_that_older_trainings_lack_are_recorded_only_if_they_are_used() -> None:
    assert not set(ADDED) & set(Recipe(3).to_dict())
    changed = Recipe(3, crop_scale=0.5, decay_norms=False)
    assert {key: changed.to_dict()[key] for key in ADDED if key in changed.to_dict()} == {
        "crop_scale": 0.5, "decay_norms": False,
    }  # fmt: skip
    assert {key: getattr(Recipe(3), key) for key in ADDED} == ADDED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs: must be at least 1: 0"),
        ({"batch_size": 1}, "--batch-size: must be at least 2: 1"),
        ({"learning_rate": 0.0}, "--learning-rate: must be above 0: 0.0"),
        ({"learning_rate": math.nan}, "--learning-rate: must be above 0: nan"),
        ({"weight_decay": -1.0}, "--weight-decay: must be at least 0: -1.0"),
        ({"momentum": 1.0}, "--momentum: must be at least 0 and below 1: 1.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing: must be at least 0 and below 1: 1.0"),
        ({"ema_decay": 1.0}, "--ema-decay: must be at least 0 and below 1: 1.0"),
        ({"ema_share": 1.0}, "--ema-share: must be at least 0 and below 1: 1.0"),
        ({"average_last": -0.1}, "--average-last: must be at least 0 and below 1: -0.1"),
        ({"ema_decay": 0.9, "average_last": 0.1}, "--average-last: must be 0 with --ema-decay: 0.1"),
        ({"crop_scale": 1.0}, "--crop-scale: must be at least 0 and below 1: 1.0"),
        ({"first_size": 0.0}, "--first-size: must be above 0 and at most 1: 0.0"),
        ({"mixup": math.inf}, "--mixup: must be at least 0: inf"),
        ({"cutmix": -0.1}, "--cutmix: must be at least 0: -0.1"),
        ({"randaugment": 31}, "--randaugment: must be from 0 to 30: 31"),
        ({"drop_connect": 1.0}, "--drop-connect: must be at least 0 and below 1: 1.0"),
        ({"distill_weight": 1.1}, "--distill-weight: must be from 0 to 1: 1.1"),
        ({"distill_temperature": 0.0}, "--distill-temperature: must be above 0: 0.0"),
        ({"warmup_epochs": 3.0}, "--warmup-epochs: must be below --epochs, 3: 3.0"),
        ({"optimizer": "adam"}, "--optimizer: unknown optimizer 'adam'; did you mean 'adamw'?"),
        ({"schedule": "cosin"}, "--schedule: unknown schedule 'cosin'; did you mean 'cosine'?"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_a_recipe_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**{"epochs": 3, **settings})
    assert str(caught.value) == message


def test_the_help_states_the_values_of_the_default_recipe() -> None:
    for flag, (_, text) in _RECIPE_FLAGS.items():
        stated = re.search(r"\(default: ([\d.]+|no\b|yes\b)", text)
        value = getattr(RECIPES["default"], flag.replace("-", "_"))
        if stated:
            assert {"no": 0.0, "yes": 1.0}.get(stated[1]) == value or float(stated[1]) == value, flag


def test_the_named_recipes_are_what_they_say() -> None:
    assert RECIPES["onecycle"] == CANDIDATES == Recipe(30)  # runs of earlier versions continue with these values
    imagenet = RECIPES["imagenet"]
    assert imagenet.learning_rate == pytest.approx(0.256 * imagenet.batch_size / 4096)
    assert Recipe(**imagenet.to_dict()) == imagenet
