"""How fast a network trains: what is measured, and the estimate of a whole training."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from nas.architecture import Architecture
from nas.networks.network import build
from nas.spaces.yaml_format import parse_space
from nas.training.loop import train
from nas.training.recipe import Recipe
from nas.training.speed import TrainingSpeed, measure_speed
from nas.training.tasks import image_datasets
from nas.training.tasks.classification import Classification
from tests.training.test_loop import DATA

SPEED = TrainingSpeed(64, {32: 0.001, 64: 0.004}, recalibration_s=0.002, validation_s=0.003)


class FakeClock:
    """A clock that a training moves: its time depends only on what was computed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def arch(resolution: int = 32) -> Architecture:
    return parse_space("small", {**DATA, "resolution": resolution}, "small.yaml").decode({})


def test_a_training_takes_its_steps_recalibrations_and_validations() -> None:
    recipe = Recipe(3, batch_size=32)
    # 3 epochs of 31 whole batches, 10 of which are recalibrated on, and 100 validation images
    assert SPEED.seconds(recipe, 1000, 100) == pytest.approx(3 * (992 * 0.004 + 320 * 0.002 + 100 * 0.003))
    assert SPEED.seconds(recipe, 40, 100) == pytest.approx(3 * (40 * 0.004 + 40 * 0.002 + 100 * 0.003))
    assert SPEED.images_per_s == pytest.approx(250)


def test_sizes_between_the_measured_ones_cost_what_their_pixels_cost() -> None:
    assert SPEED.at(48) == pytest.approx(0.001 + (48**2 - 32**2) / (64**2 - 32**2) * 0.003)
    growing = Recipe(5, batch_size=32, first_size=0.5)  # 32, 48 (twice, rounded) and 64 px
    plain = replace(growing, first_size=1.0)
    assert SPEED.seconds(growing, 1024, 10) < 0.8 * SPEED.seconds(plain, 1024, 10)


@pytest.mark.parametrize("first_size", [1.0, 0.5])
def test_the_epochs_of_a_time_are_as_many_as_fit(first_size: float) -> None:
    recipe = Recipe(30, first_size=first_size)
    for seconds in (0.001, 20.0, 100.0, 777.0):
        epochs = SPEED.epochs_within(seconds, recipe, 1000, 100)
        longer = SPEED.seconds(replace(recipe, epochs=epochs + 1), 1000, 100)
        assert longer > seconds
        assert epochs == 1 or SPEED.seconds(replace(recipe, epochs=epochs), 1000, 100) <= seconds


def test_only_steps_after_the_warm_up_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    calls: list[tuple[bool, int]] = []

    def forward(images: torch.Tensor) -> None:
        is_step = torch.is_grad_enabled()
        calls.append((is_step, images.shape[-1]))
        clock.now += 0.001 * len(images) * (images.shape[-1] / 32) ** 2 * (1 if is_step and len(calls) > 4 else 50)

    whole = Classification.outputs

    def outputs(task: Classification, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        forward(images)
        return whole(task, model, images)

    monkeypatch.setattr(Classification, "outputs", outputs)
    task = Classification.load("digits")
    state = torch.random.get_rng_state()
    found = measure_speed(arch(), task, Recipe(7, batch_size=16, first_size=0.5), seconds=0.5, clock=clock)
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.step_s == {16: pytest.approx(0.00025), 32: pytest.approx(0.001)}
    assert found.images_per_s == pytest.approx(1000)
    assert {size for is_step, size in calls if is_step} == {16, 32}


def test_images_that_do_not_fit_into_memory_are_measured_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_datasets, "CACHE_BYTES", 100 * 3 * 8 * 8)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    task = Classification.load("digits")
    whole = len(task.data.train)
    seen: list[int] = []
    train_set = Classification.train_set

    def watched(self: Classification, resolution: int, images: int = 0) -> image_datasets.ImageDataset:
        found = train_set(self, resolution, images)
        seen.append(len(found))
        return found

    monkeypatch.setattr(Classification, "train_set", watched)
    found = measure_speed(arch(8), task, Recipe(1), seconds=0.05)
    assert seen == [whole]
    assert found.step_s[8] > 0
    assert found.validation_s > 0


@pytest.mark.slow  # it compares times, which other work on the machine changes
def test_the_estimate_is_near_a_real_training() -> None:
    task = Classification.load("digits")
    recipe = Recipe(4, ema_share=0.2, first_size=0.5)
    found = measure_speed(arch(), task, recipe, seconds=1.0, clock=time.process_time)
    sets = task.train_set(32), task.validation_set(32)
    model = build(arch())
    list(train(build(arch()), task, *sets, replace(recipe, epochs=1), 0))
    begun = time.process_time()
    list(train(model, task, *sets, recipe, 0))
    spent = time.process_time() - begun
    assert spent == pytest.approx(found.seconds(recipe, len(sets[0]), len(sets[1])), rel=0.5)
