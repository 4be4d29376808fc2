"""The training loop. It yields the task's metric on the validation images after each epoch, and resumes."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import DataError, NasError
from nas.networks.blocks.layers import ClassifierConv2d, UnnormalizedConv2d
from nas.networks.condensenet import group_lasso, learned_groups, set_progress
from nas.networks.network import Network, set_drop_connect
from nas.networks.preprocessing import normalize
from nas.training.branches import branched
from nas.training.checkpoint import RENEWED, fingerprint, save_checkpoint
from nas.training.recipe import Recipe, batch_size, size_at
from nas.training.state import Epoch, TrainingState, half_type, restore_state, start_state, state_to_dict
from nas.training.strided_pointwise import safe_pointwise
from nas.training.tasks.base import Task, TaskDataset, make_loader

__all__ = [
    "Epoch",
    "Recipe",
    "TrainingError",
    "Watch",
    "check_fit",
    "no_memory",
    "pick_device",
    "recalibrate",
    "train",
]
RECALIBRATION_BATCHES = 10
NO_MEMORY = ("can't allocate memory", "not enough memory")
"""Messages of the RuntimeErrors that torch raises if the CPU's memory is exhausted."""


class TrainingError(NasError):
    """A training failed: the loss is not finite, or there is not enough memory."""


@dataclass(frozen=True)
class Watch:
    """Callbacks of a training.

    Attributes:
        images: Receives the number of images since its last call; negative if the training restarts.
        epoch: Receives every finished epoch.
        warn: Receives warnings.
    """

    images: Callable[[int], None] = lambda count: None
    epoch: Callable[[Epoch], None] = lambda epoch: None
    warn: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class _Job:
    """The constants of a training, see `train`."""

    task: Task
    train_set: TaskDataset
    validation: TaskDataset
    recipe: Recipe
    seed: int
    teacher: nn.Module | None
    checkpoint: Path | None
    checkpoint_s: float
    watch: Watch
    device: torch.device
    identity: Callable[[], Mapping[str, Any]]


def pick_device() -> torch.device:
    """Return the device to train on: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    task: Task,
    train_set: TaskDataset,
    validation: TaskDataset,
    recipe: Recipe,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_s: float = 0.0,
    watch: Watch | None = None,
) -> Iterator[float]:
    """Train `model` in place and yield the metric on the validation images, in [0, 1], after each epoch.

    The same seed gives the same weights on the same machine. torch's global random state does not change. If the
    recipe averages weights, the values are those of the average, which `model` receives after the last epoch.

    A resumed training yields the values of the epochs in its checkpoint first. Each epoch has its own seed, so
    weights and values equal those of a training without interruption.

    If the memory is exhausted, the training restarts once with half the batch size and warns. Epochs that were
    already yielded are not yielded again.

    With branches in the recipe, `model` has them until the iterator ends or is closed.

    Args:
        model: The network. If it is a `Network`, its drop-connect rate is set to the recipe's.
        task: The loss and the metric.
        train_set: The training images.
        validation: The validation images.
        recipe: The settings.
        seed: The seed of augmentation, order and dropout.
        teacher: A network to distill from. It sees the same augmented images as `model`.
        checkpoint: A file to write after epochs, and to resume from if it exists.
        checkpoint_s: Seconds from one checkpoint to the next, at least.
        watch: Callbacks for progress and warnings.

    Raises:
        DataError: Images or classes do not fit the network.
        WeightsError: The checkpoint is broken or belongs to another training.
        TrainingError: The loss is not finite, or the memory is exhausted again.
    """
    with branched(model, recipe.branches, seed), safe_pointwise(model):
        device = pick_device()
        _place(model, teacher, task, validation, recipe, device)
        fresh = {key: value.detach().clone() for key, value in model.state_dict().items()}
        renewed = any(isinstance(module, UnnormalizedConv2d | ClassifierConv2d) for module in model.modules())
        identity = cache(partial(_identity, fresh, task, train_set, validation, recipe, seed, teacher, renewed))
        job = _Job(
            task, task.augmented(train_set, recipe), validation, recipe, seed, teacher, checkpoint, checkpoint_s,
            watch or Watch(), device, identity,
        )  # fmt: skip
        yield from _train_within_memory(model, job, fresh)


def _place(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    validation: TaskDataset,
    recipe: Recipe,
    device: torch.device,
) -> None:
    """Move the network and its teacher to the device, and check that they fit the data. Raises DataError."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_fit(model, task, validation, device)
    if isinstance(model, Network):
        set_drop_connect(model, recipe.drop_connect)
    if teacher is not None:
        teacher.to(device).eval()
        check_fit(teacher, task, validation, device, "the teacher")


def _train_within_memory(model: nn.Module, job: _Job, fresh: Mapping[str, Tensor]) -> Iterator[float]:
    """Train; if the memory is exhausted, restart once from the weights `fresh` with half the batch size."""
    whole = batch_size(job.recipe, len(job.train_set))
    state = start_state(model, job.recipe, len(job.train_set), whole, job.device)
    if job.checkpoint is not None and job.checkpoint.exists():
        state = restore_state(state, job.checkpoint, job.identity(), job.recipe, len(job.train_set), job.device)
    yielded = 0
    try:
        for value in _epochs(state, job):
            yielded += 1
            yield value
        return
    except Exception as error:
        if not no_memory(error):
            raise
        size, reported = state.batch_size, state.reported
        reason = (str(error).splitlines() or ["no memory"])[0]
    half = size // 2
    if size < whole or half < 2:
        raise TrainingError(f"out of memory with {size} images per batch: {reason}")
    job.watch.warn(f"out of memory with {size} images per batch: the training restarts with {half}")
    job.watch.images(-reported)
    del state
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    model.load_state_dict(fresh)
    model.zero_grad(set_to_none=True)
    try:
        again = _epochs(start_state(model, job.recipe, len(job.train_set), half, job.device), job)
        yield from itertools.islice(again, yielded, None)
    except Exception as error:
        if not no_memory(error):
            raise
        raise TrainingError(f"out of memory with {half} images per batch, after {size}") from error


def no_memory(error: Exception) -> bool:
    """Return whether `error` means that the memory of the GPU or the CPU is exhausted."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _epochs(state: TrainingState, job: _Job) -> Iterator[float]:
    """Yield the metric of the finished epochs, then train the remaining ones."""
    for epoch in state.curve:
        _report_images(state, job, len(job.train_set))
        job.watch.epoch(epoch)
        yield epoch.value
    saved_s = time.monotonic()
    for number in range(len(state.curve), job.recipe.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(job.seed * 1_000_003 + number)
            loader = make_loader(job.task, job.train_set, state.batch_size, shuffle=True, drop_last=True)
            loss, images_per_s = _train_epoch(state, job, loader, number)
            recalibrate(state.best, loader, job.device)
        rate = float(state.optimizer.param_groups[0]["lr"])
        state.curve.append(_validated(state.best, job, Epoch(number, loss, 0.0, rate, images_per_s)))
        if job.checkpoint is not None and time.monotonic() - saved_s >= job.checkpoint_s:
            save_checkpoint(job.checkpoint, job.identity(), state_to_dict(state))
            saved_s = time.monotonic()
        state.finish(job.recipe.epochs)
        job.watch.epoch(state.curve[-1])
        yield state.curve[-1].value


def _validated(model: nn.Module, job: _Job, epoch: Epoch) -> Epoch:
    """Return the epoch with the accuracy on the validation images and, if it is another one, the task's metric."""
    report = job.task.evaluate(model, job.validation, job.device)
    value = None if report.metric == "accuracy" else report.metric_value
    return replace(epoch, accuracy=report.accuracy, metric_value=value)


def _train_epoch(state: TrainingState, job: _Job, loader: Any, number: int) -> tuple[float, float]:
    """Train one epoch and return the mean loss and the images per second."""
    model, device, clip = state.model, job.device, job.recipe.clip
    model.train()
    loss_of = _make_loss(model, job)
    size = size_at(job.recipe, job.train_set.resolution, number)
    begun, total, seen = time.perf_counter(), 0.0, 0
    for step, batch in enumerate(loader):
        images, targets = job.task.move(batch, device, size)
        loss = loss_of(images.contiguous(memory_format=torch.channels_last), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} in epoch {number}, step {step}")
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        set_progress(model, state.schedule.last_epoch / state.steps)
        if state.average is not None:
            state.average.update_parameters(model)
        total, seen = total + value, seen + len(images)
        _report_images(state, job, len(images))
    _report_images(state, job, len(job.train_set) - seen)
    return total / len(loader), seen / (time.perf_counter() - begun)


def _report_images(state: TrainingState, job: _Job, images: int) -> None:
    state.reported += images
    job.watch.images(images)


def _make_loss(model: nn.Module, job: _Job) -> Callable[[Tensor, Any], Tensor]:
    task, recipe, teacher = job.task, job.recipe, job.teacher
    mix = task.mixing(recipe)
    half = half_type(recipe, job.device)
    weights = task.loss_weights(job.train_set)
    weights = None if weights is None else weights.to(job.device)
    condensing = any(True for _ in learned_groups(model))

    def loss_of(images: Tensor, targets: Any) -> Tensor:
        if mix is not None:
            images, targets = mix(images.float(), targets)
        with contextlib.nullcontext() if half is None else torch.autocast(job.device.type, half):
            outputs = task.outputs(model, images)
        loss = task.loss(outputs, targets, recipe.label_smoothing, weights)
        if teacher is not None:
            with torch.no_grad(), contextlib.nullcontext() if half is None else torch.autocast(job.device.type, half):
                taught = task.outputs(teacher, images)
            divergence = task.distillation(outputs, taught, recipe.distill_temperature)
            loss = (1 - recipe.distill_weight) * loss + recipe.distill_weight * divergence
        return loss + recipe.group_lasso * group_lasso(model) if condensing else loss

    return loss_of


@torch.no_grad()
def recalibrate(model: nn.Module, loader: Any, device: torch.device, batches: int = RECALIBRATION_BATCHES) -> None:
    """Set the running statistics of every batch norm to their mean over some batches of training images.

    After a short training, the moving averages still contain statistics of earlier weights.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.random.fork_rng():  # dropout draws random numbers
        for images, _ in itertools.islice(loader, batches):
            model(normalize(images.to(device, memory_format=torch.channels_last)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def check_fit(
    model: nn.Module, task: Task, images: TaskDataset, device: torch.device, name: str = "the network"
) -> None:
    """Check that the channels of a model's first convolution and its outputs fit the data.

    Leaves the model in eval mode. Raises DataError, in which `name` stands for the model.
    """
    image = images[0][0][None].to(device)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != image.shape[1]:
        rule = f"the images of '{task.data.name}' have {image.shape[1]} channels, {name} needs {first.in_channels}"
        raise DataError(rule, where="--data")
    task.check_outputs(task.outputs(model.eval(), image), name)


def _identity(
    fresh: Mapping[str, Tensor],
    task: Task,
    train_set: TaskDataset,
    validation: TaskDataset,
    recipe: Recipe,
    seed: int,
    teacher: nn.Module | None,
    renewed: bool,
) -> dict[str, Any]:
    """Return the settings that identify a training, as plain values."""
    shapes = {key: value.to("meta") for key, value in fresh.items()}
    return {
        **recipe.to_dict(),
        **task.settings,
        "seed": seed,
        "data": task.data.name,
        "train_images": train_set.digest,
        "validation_images": validation.digest,
        "network": fingerprint(shapes),
        "first_weights": fingerprint(fresh),
        **({RENEWED: "torchvision"} if renewed else {}),
        "teacher": None if teacher is None else fingerprint(teacher.state_dict()),
    }
