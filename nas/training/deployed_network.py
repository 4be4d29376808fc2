"""A network as the device runs it: the exported file of a runtime that does not compute in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from nas.architecture import Architecture, Shape
from nas.devices.runtimes import computes, export_inputs, find_runtime, is_exact, make_runtime, precision_of
from nas.errors import DataError, DeviceError, UsageError
from nas.networks.block_schema import is_detector_head
from nas.networks.deployment import deploy
from nas.networks.preprocessing import normalize
from nas.training.tasks.base import Report, Task

CALIBRATION_IMAGES = 128
"""Training images that decide the ranges of a quantized network."""
MOST_KEPT = 200_000_000
"""The images of a task are kept for the next network if they take no more bytes."""
_KEPT: WeakKeyDictionary[Task, dict[int, Tensor]] = WeakKeyDictionary()
LEAST_IMAGES = 8
"""Fewer images say too little about the ranges."""


class DeployedNetwork(nn.Module):
    """An exported classifier as a module, which runs image by image: exported networks have a batch size of 1.

    Args:
        runtime: The name of the runtime.
        path: The exported file.
        shape: The shape (C, H, W) of an image.

    Raises:
        DeviceError: The runtime is not installed here.
    """

    def __init__(self, runtime: str, path: Path, shape: Shape):
        super().__init__()
        self._run = make_runtime(runtime).load(str(path), [np.zeros((1, *shape), np.float32)], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (N, C, H, W) -> logits (N, classes), on the device of the images."""
        rows = [torch.from_numpy(np.array(self._run([image])[0])) for image in _arrays(images)]
        return torch.cat(rows).to(images.device)


def _arrays(images: Tensor) -> Iterator[Any]:
    for image in torch.split(images.detach().cpu(), 1):
        yield np.ascontiguousarray(image.numpy())


def calibration_images(task: Task, resolution: int) -> Tensor:
    """Return normalized training images (N, C, H, W): a stratified part, without augmentation.

    Raises DataError if there are fewer than `LEAST_IMAGES`.
    """
    check_images_for(task, "onnxruntime_int8")
    kept = _KEPT.setdefault(task, {})
    if resolution not in kept:
        found = task.calibration_set(resolution, max(CALIBRATION_IMAGES, task.num_classes))
        images = normalize(torch.stack([found[index][0] for index in range(len(found))]))
        if images.nbytes > MOST_KEPT:
            return images
        kept[resolution] = images
    return kept[resolution]


def check_images_for(task: Task, runtime: str) -> None:
    """Raise DataError if a data set has too few training images for a runtime in int8."""
    images = len(task.data.train)
    if precision_of(runtime) == "int8" and images < LEAST_IMAGES:
        rule = f"has {images} training images; int8 needs at least {LEAST_IMAGES} to know the ranges of activations"
        raise DataError(f"'{task.data.name}' {rule}", where="--data")


def check_precision(task: str, runtime: str) -> None:
    """Raise UsageError if networks of a task cannot be deployed in the precision of a runtime."""
    precision = precision_of(runtime)
    if task == "detection" and precision != "float32":
        raise UsageError("detectors are deployed in float32 only", key="precision", value=precision)


def check_deployable(arch: Architecture, runtime: str) -> None:
    """Raise UsageError if a network cannot be deployed in the precision of a runtime."""
    check_precision("detection" if is_detector_head(arch.head.op) else "classification", runtime)


def calibration_for(runtime: str, task: Task, resolution: int) -> Tensor | None:
    """Return the images that decide the ranges of a runtime in int8; None for other precisions."""
    return calibration_images(task, resolution) if precision_of(runtime) == "int8" else None


@contextmanager
def deployed(model: nn.Module, runtime: str, shape: Shape, images: Tensor | None) -> Iterator[nn.Module]:
    """Export a trained classifier to a temporary file and yield the network of the file.

    Args:
        model: The network.
        runtime: The name of the runtime.
        shape: The shape (C, H, W) of an image.
        images: The result of `calibration_for`.

    Raises:
        ExportError: The runtime cannot express the network.
        DeviceError: The runtime is not installed here.
    """
    target = find_runtime(runtime)
    with tempfile.TemporaryDirectory(prefix="nas-deployed-") as folder:
        path = Path(folder) / f"model{target.suffix}"
        network = deploy(model).cpu().to(memory_format=torch.contiguous_format)
        target.export(network, export_inputs(target, shape, images), path)
        yield DeployedNetwork(runtime, path, shape)


def must_deploy(runtime: str) -> bool:
    """Return whether networks have to be tested as exported files: the runtime is here and not exact."""
    if is_exact(runtime) or not computes(runtime):
        return False
    try:
        make_runtime(runtime)
    except DeviceError:
        return False
    return True


def deployed_reports(task: Task, model: nn.Module, runtime: str, resolution: int, sets: Sequence[Any]) -> list[Report]:
    """Return the tests of a network as a runtime computes it; [] if that is in float32, or cannot be run here.

    Args:
        task: The task.
        model: The network.
        runtime: The name of the runtime.
        resolution: The height of the images in pixels.
        sets: The data sets to test on.
    """
    if not must_deploy(runtime):
        return []
    shape, images = task.input.shape(resolution), calibration_for(runtime, task, resolution)
    with deployed(model, runtime, shape, images) as network:
        return [task.evaluate(network, each, torch.device("cpu")) for each in sets]
