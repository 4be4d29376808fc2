"""The training loop: what it always did, what a recipe adds, going on from a checkpoint, and how it fails."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from nas.errors import DataError, WeightsError
from nas.networks.blocks.layers import DropConnect
from nas.networks.condensenet import learned_groups
from nas.networks.network import Network, build
from nas.spaces.yaml_format import parse_space
from nas.training.loop import Epoch, Recipe, TrainingError, Watch, recalibrate, train
from nas.training.recipe import size_at
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset
from nas.training.tasks.splits import ImageData

DATA: dict[str, Any] = {
    "resolution": 8,
    "stages": [
        {"block": "conv", "out_channels": 8},
        {"block": "mbconv", "depth": 2, "out_channels": 12, "stride": 2, "expand_ratio": 2},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}
CONDENSE = {
    **DATA,
    "stages": [{"block": "conv", "out_channels": 16}, {"block": "condense", "growth_rate": 16, "depth": 2}],
}
RECIPE = Recipe(3, batch_size=25)
VARIANTS: dict[str, Recipe] = {
    "sgd": replace(RECIPE, optimizer="sgd", schedule="cosine", learning_rate=0.1, warmup_epochs=0.5),
    "rmsprop": replace(RECIPE, optimizer="rmsprop", learning_rate=0.01, clip=0.0),
    "average": replace(RECIPE, ema_decay=0.9),
    "average of a share": replace(RECIPE, ema_share=0.3),
    "average of the last": replace(RECIPE, average_last=0.5),
    "resized crops": replace(RECIPE, crop_scale=0.4),
    "norms without decay": replace(RECIPE, decay_norms=False, weight_decay=0.5),
    "mixup": replace(RECIPE, mixup=0.4),
    "cutmix": replace(RECIPE, cutmix=1.0),
    "both": replace(RECIPE, mixup=0.4, cutmix=1.0),
    "randaugment": replace(RECIPE, randaugment=9),
    "drop connect": replace(RECIPE, drop_connect=0.5),
    "mixed precision": replace(RECIPE, amp=True),
    "clipped": replace(RECIPE, clip=0.05),
    "labels as they are": replace(RECIPE, label_smoothing=0.0),
}

ADDED = ["average of a share", "average of the last", "resized crops", "norms without decay"]


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


@pytest.fixture(scope="module")
def sets(task: Classification) -> tuple[ImageDataset, ImageDataset]:
    return task.train_set(8, 100), task.validation_set(8, 60)


def network(data: dict[str, Any] = DATA, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build(parse_space("small", data, "small.yaml").decode({}))


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


Sets = tuple[ImageDataset, ImageDataset]


def plain(model: nn.Module, task: Classification, sets: Sets, recipe: Recipe, seed: int) -> None:
    """Train as the first version of this program did, whose experiments are recorded."""
    model.to(memory_format=torch.channels_last)
    steps = recipe.epochs * (len(sets[0]) // recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2)
    for epoch in range(recipe.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch)
        loader = DataLoader(sets[0], recipe.batch_size, shuffle=True, drop_last=True)
        model.train()
        for images, labels in loader:
            loss = task.loss(task.outputs(model, images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        recalibrate(model, loader, torch.device("cpu"))


def test_the_default_recipe_trains_as_ever(task: Classification, sets: Sets) -> None:
    ours, theirs = network(), network()
    list(train(ours, task, *sets, RECIPE, 3))
    plain(theirs, task, sets, RECIPE, 3)
    assert same(ours, theirs)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_recipe_repeats_itself_and_differs_from_the_default(name: str, task: Classification, sets: Sets) -> None:
    default = network()
    list(train(default, task, *sets, RECIPE, 1))
    models = [network(), network()]
    before = torch.random.get_rng_state()
    curves = [list(train(model, task, *sets, VARIANTS[name], 1)) for model in models]
    assert torch.equal(before, torch.random.get_rng_state())
    assert curves[0] == curves[1]
    assert same(*models)
    assert not same(models[0], default)
    assert all(torch.isfinite(value).all() for value in models[0].state_dict().values())
    assert task.evaluate(models[0], sets[1], torch.device("cpu")).accuracy == curves[0][-1]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_each_optimizer_learns_digits(optimizer: str, task: Classification) -> None:
    rate = {"sgd": 0.2, "rmsprop": 0.02}[optimizer]
    recipe = Recipe(3, optimizer=optimizer, learning_rate=rate, weight_decay=1e-4, schedule="cosine", ema_decay=0.98)
    *_, accuracy = train(network(), task, task.train_set(8), task.validation_set(8), recipe, seed=0)
    assert accuracy > 0.5


def test_the_average_of_weights_is_what_is_returned_and_masks_are_copied(task: Classification, sets: Sets) -> None:
    raw, averaged = network(CONDENSE), network(CONDENSE)
    list(train(raw, task, *sets, RECIPE, 0))
    list(train(averaged, task, *sets, replace(RECIPE, ema_decay=0.9), 0))
    for one, other in zip(learned_groups(raw), learned_groups(averaged), strict=True):
        assert torch.equal(one.mask, other.mask)
        assert other.mask.mean().item() == pytest.approx(1 / 4)
    assert not torch.equal(raw.head.linear.weight, averaged.head.linear.weight)  # type: ignore[union-attr, arg-type]


def test_the_average_is_the_running_one(task: Classification, sets: Sets) -> None:
    seen: list[Tensor] = []
    model = network()
    weight = model.head.linear.weight  # type: ignore[union-attr]
    recipe = Recipe(2, batch_size=50, ema_decay=0.3)
    watch = Watch(images=lambda count: seen.append(weight.detach().clone()) if count else None)  # type: ignore[operator]
    list(train(model, task, *sets, recipe, 0, watch=watch))
    expected = seen[0]
    for update, current in enumerate(seen[1:], start=1):
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * current
    assert len(seen) == 4
    assert torch.allclose(weight, expected, atol=1e-6)  # type: ignore[arg-type]


def test_the_average_of_the_last_weights_is_their_mean(task: Classification, sets: Sets) -> None:
    seen: list[Tensor] = []
    model = network()
    weight = model.head.linear.weight  # type: ignore[union-attr]
    recipe = Recipe(5, batch_size=50, average_last=0.4)
    watch = Watch(images=lambda count: seen.append(weight.detach().clone()) if count else None)  # type: ignore[operator]
    list(train(model, task, *sets, recipe, 0, watch=watch))
    assert len(seen) == 10
    assert torch.allclose(weight, torch.stack(seen[-4:]).mean(0), atol=1e-6)  # type: ignore[arg-type]


def test_the_average_of_a_share_fits_the_length_of_the_training(task: Classification, sets: Sets) -> None:
    seen: list[Tensor] = []
    model = network()
    weight = model.head.linear.weight  # type: ignore[union-attr]
    recipe = Recipe(5, batch_size=50, ema_share=0.2)  # 0.2 of 10 steps: a decay of 1/2
    watch = Watch(images=lambda count: seen.append(weight.detach().clone()) if count else None)  # type: ignore[operator]
    list(train(model, task, *sets, recipe, 0, watch=watch))
    expected = seen[0]
    for update, current in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * current
    assert torch.allclose(weight, expected, atol=1e-6)  # type: ignore[arg-type]


def test_a_continued_training_grows_on(task: Classification, tmp_path: Path) -> None:
    sets, recipe = (task.train_set(32, 50), task.validation_set(32, 20)), Recipe(4, batch_size=25, first_size=0.5)
    whole, model, path = network(), network(), tmp_path / "checkpoint.pt"
    expected = list(train(whole, task, *sets, recipe, 0))
    next(train(network(), task, *sets, recipe, 0, checkpoint=path))
    assert list(train(model, task, *sets, recipe, 0, checkpoint=path)) == expected
    assert same(model, whole)


def test_the_resolution_grows_and_the_last_epochs_are_at_the_full_one(task: Classification) -> None:
    sizes: list[int] = []
    model = network({**DATA, "resolution": 48})
    model.stages[0].register_forward_hook(
        lambda module, inputs, _: sizes.append(inputs[0].shape[-1]) if torch.is_grad_enabled() else None
    )
    sets = task.train_set(48, 50), task.validation_set(48, 20)
    recipe = Recipe(6, batch_size=50, first_size=0.3)
    *_, accuracy = train(model, task, *sets, recipe, 0)
    assert sizes[::2] == sizes[1::2] == [size_at(recipe, 48, epoch) for epoch in range(6)] == [16, 16, 32, 32, 48, 48]
    assert accuracy == task.evaluate(model, sets[1], torch.device("cpu")).accuracy


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(task: Classification, sets: Sets) -> None:
    model, types = network(), set()
    model.stages[1].register_forward_hook(lambda module, _, out: types.add((module.training, out.dtype)))
    list(train(model, task, *sets, replace(RECIPE, epochs=1, amp=True), 0))
    assert (True, torch.bfloat16) in types
    assert (False, torch.float32) in types
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_drop_connect_rate_is_the_recipes(task: Classification, sets: Sets) -> None:
    model = network()
    for rate in (0.4, 0.0):
        list(train(model, task, *sets, replace(RECIPE, epochs=1, drop_connect=rate), 0))
        rates = [module.rate for module in model.modules() if isinstance(module, DropConnect)]
        assert max(rates) == pytest.approx(rate / 2)


def test_a_student_comes_near_its_teacher(task: Classification, sets: Sets) -> None:
    teacher = network(seed=1)
    list(train(teacher, task, *sets, replace(RECIPE, epochs=12), 1))
    known, images = copy.deepcopy(teacher), torch.stack([sets[1][index][0] for index in range(60)])
    apart = {}
    for weight in (0.0, 1.0):
        student = network()
        recipe = replace(RECIPE, epochs=6, distill_weight=weight, distill_temperature=2.0)
        list(train(student, task, *sets, recipe, 0, teacher=teacher))
        with torch.no_grad():
            outputs = task.outputs(student, images), task.outputs(teacher, images)
            apart[weight] = task.distillation(*outputs, 2.0).item()
    assert apart[1.0] < 0.8 * apart[0.0]
    assert same(teacher, known)
    alone = network()
    list(train(alone, task, *sets, replace(RECIPE, epochs=6), 0))
    assert same(alone, _distilled_by_nothing(task, sets, teacher))


def _distilled_by_nothing(task: Classification, sets: Sets, teacher: nn.Module) -> nn.Module:
    model = network()
    list(train(model, task, *sets, replace(RECIPE, epochs=6, distill_weight=0.0), 0, teacher=teacher))
    return model


def test_distillation_is_nothing_for_equal_outputs_and_grows_with_the_difference(task: Classification) -> None:
    logits = torch.randn(5, 10)
    assert task.distillation(logits, logits, 4.0).item() == pytest.approx(0, abs=1e-6)
    near, far = (task.distillation(logits, logits + size * torch.randn(5, 10), 4.0).item() for size in (0.1, 3.0))
    assert 0 < near < far


@pytest.mark.parametrize("name", ["sgd", "average", "both", "mixed precision", "randaugment", *ADDED])
def test_a_continued_training_equals_one_that_nothing_interrupted(
    name: str, task: Classification, sets: Sets, tmp_path: Path
) -> None:
    recipe, path = VARIANTS[name], tmp_path / "checkpoint.pt"
    whole = network()
    expected = list(train(whole, task, *sets, recipe, 5))
    for epochs in (1, 2):
        found = list(itertools.islice(train(network(), task, *sets, recipe, 5, checkpoint=path), epochs))
        assert found == expected[:epochs]
    for _ in range(2):  # the second time all is done
        model = network()
        curve: list[Epoch] = []
        assert list(train(model, task, *sets, recipe, 5, checkpoint=path, watch=Watch(epoch=curve.append))) == expected
        assert same(model, whole)
        assert [epoch.number for epoch in curve] == [0, 1, 2]
        assert [epoch.accuracy for epoch in curve] == expected


def test_condensing_goes_on(task: Classification, sets: Sets, tmp_path: Path) -> None:
    whole, model, path = network(CONDENSE), network(CONDENSE), tmp_path / "checkpoint.pt"
    list(train(whole, task, *sets, RECIPE, 0))
    list(itertools.islice(train(network(CONDENSE), task, *sets, RECIPE, 0, checkpoint=path), 1))
    list(train(model, task, *sets, RECIPE, 0, checkpoint=path))
    assert same(model, whole)


@pytest.mark.parametrize(
    ("other", "key"),
    [
        ({"recipe": replace(RECIPE, mixup=0.1)}, "mixup is 0.0 there and 0.1 now"),
        ({"seed": 1}, "seed is 0 there and 1 now"),
        ({"model": network(CONDENSE)}, "network is"),
        ({"model": network(seed=1)}, "first_weights is"),
        ({"teacher": network(seed=2)}, "teacher is None there"),
        ({"resolution": 12}, "train_images is"),
        ({"images": 90}, "train_images is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_training_is_refused(
    other: dict[str, Any], key: str, task: Classification, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"

    def go(
        recipe: Recipe = RECIPE,
        seed: int = 0,
        model: nn.Module | None = None,
        teacher: nn.Module | None = None,
        resolution: int = 8,
        images: int = 100,
    ) -> Iterator[float]:
        pictures = task.train_set(resolution, images), task.validation_set(resolution, 60)
        return train(model or network(), task, *pictures, recipe, seed, teacher=teacher, checkpoint=path)

    next(go())
    with pytest.raises(WeightsError) as caught:
        next(go(**other))
    assert f"{path}: belongs to another training: {key}" in str(caught.value)


@pytest.mark.parametrize("part", ["model", "optimizer", "curve", "batch_size", "average"])
def test_a_checkpoint_whose_state_does_not_fit_is_refused(
    part: str, task: Classification, sets: Sets, tmp_path: Path
) -> None:
    path, recipe = tmp_path / "checkpoint.pt", VARIANTS["average"]
    next(train(network(), task, *sets, recipe, 0, checkpoint=path))
    stored = torch.load(path, weights_only=True)
    stored["state"][part] = {"curve": [{"number": 0}], "batch_size": 0}.get(part, {})
    torch.save(stored, path)
    with pytest.raises(WeightsError, match="does not hold the state of this training: ") as caught:
        next(train(network(), task, *sets, recipe, 0, checkpoint=path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Hungry(nn.Module):
    """A network that has no memory for more than `limit` images in a batch, from its call number `after` on."""

    def __init__(self, limit: int, error: Callable[[], Exception], after: int = 0):
        super().__init__()
        self.network, self.limit, self.error, self.left = network(), limit, error, after

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.left -= 1
            if len(x) > self.limit and self.left < 0:
                raise self.error()
        y: Tensor = self.network(x)
        return y


FULL: dict[str, Callable[[], Exception]] = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    "windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    "python": MemoryError,
}


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("after", [0, 6])
def test_without_memory_the_training_starts_over_with_half_the_batch(
    kind: str, after: int, task: Classification, sets: Sets
) -> None:
    said: list[str] = []
    images: list[int] = []
    curve: dict[int, float] = {}
    model, expected = Hungry(12, FULL[kind], after), Hungry(99, FULL[kind])
    watch = Watch(images.append, lambda epoch: curve.update({epoch.number: epoch.value}), said.append)
    found = list(train(model, task, *sets, RECIPE, 0, watch=watch))
    halved = list(train(expected, task, *sets, replace(RECIPE, batch_size=12), 0))
    assert said == ["out of memory with 25 images per batch: the training restarts with 12"]
    assert list(curve.values()) == halved
    assert len(found) == 3
    assert found[1:] == halved[1:]
    assert same(model, expected)
    assert sum(images) == 300


@pytest.mark.parametrize("kind", FULL)
def test_without_memory_for_half_the_batch_the_training_fails(kind: str, task: Classification, sets: Sets) -> None:
    with pytest.raises(TrainingError) as caught:
        list(train(Hungry(2, FULL[kind]), task, *sets, RECIPE, 0))
    assert str(caught.value) == "out of memory with 12 images per batch, after 25"


def test_half_the_batch_is_half_of_it_after_a_kill_too(task: Classification, sets: Sets, tmp_path: Path) -> None:
    path, said = tmp_path / "checkpoint.pt", list[str]()
    whole = Hungry(12, MemoryError)
    expected = list(train(whole, task, *sets, RECIPE, 0))
    next(train(Hungry(12, MemoryError), task, *sets, RECIPE, 0, checkpoint=path))
    model = Hungry(12, MemoryError)
    assert list(train(model, task, *sets, RECIPE, 0, checkpoint=path, watch=Watch(warn=said.append))) == expected
    assert said == []
    assert same(model, whole)
    again = train(Hungry(6, MemoryError), task, *sets, replace(RECIPE, epochs=2), 0, checkpoint=tmp_path / "other.pt")
    with pytest.raises(TrainingError, match="out of memory with 12 images per batch"):
        list(again)


def test_another_error_is_not_taken_for_a_lack_of_memory(task: Classification, sets: Sets) -> None:
    with pytest.raises(RuntimeError, match="something else"):
        list(train(Hungry(12, lambda: RuntimeError("something else")), task, *sets, RECIPE, 0))


def test_a_loss_that_is_not_finite_is_told_with_epoch_and_step(task: Classification, sets: Sets) -> None:
    model = network()
    left = iter(range(6))

    def spoil(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        return out * float("inf") if module.training and next(left, None) is None else out

    model.stages[1].register_forward_hook(spoil)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, step 0"):
        list(train(model, task, *sets, Recipe(2, batch_size=25), 0))


def test_images_and_classes_that_do_not_fit_are_told_before_anything_is_trained(
    task: Classification, sets: Sets
) -> None:
    gray = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(DataError) as caught:
        next(train(gray, task, *sets, RECIPE, 0))
    assert str(caught.value) == "--data: the images of 'digits' have 3 channels, the network needs 1"
    seven = network({**DATA, "head": {"block": "classifier", "num_classes": 7}})
    before = copy.deepcopy(seven)
    with pytest.raises(DataError) as caught:
        next(train(seven, task, *sets, RECIPE, 0))
    assert str(caught.value) == "--data: 'digits' has 10 classes, the network has 7"
    assert same(seven, before)
    with pytest.raises(DataError, match="'digits' has 10 classes, the teacher has 7"):
        next(train(network(), task, *sets, RECIPE, 0, teacher=seven))


def test_half_of_a_small_set_is_a_batch(task: Classification) -> None:
    split = task.data.train.take(range(8))
    few = Classification(ImageData("few", task.data.classes, split, split, split))
    assert len(list(train(network(), few, few.train_set(8), few.validation_set(8), Recipe(2), 0))) == 2
