"""The protocol of tasks: what the training loops, the evaluators and the searches ask about data, loss and metric.

A batch is a pair of uint8 images (B, C, H, W) and targets. Only the task knows what targets and outputs are: class
numbers (B,) and logits (B, C), or lists of boxes. So data sets, outputs and targets of a task have the type Any here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.architecture import Architecture, BlockSpec, InputFormat
from nas.spaces.search_space import Space, StageSpec
from nas.training.recipe import Recipe
from nas.utils.reporting import Reporter

Network = TypeVar("Network", Architecture, Space)
AnyTask = TypeVar("AnyTask")
Batch = tuple[Tensor, Any]
"""Images (B, C, H, W) and their targets. An item of a data set is an image (C, H, W) and its target."""


FLIPS = ("auto", "on", "off")
"""Whether training images are mirrored at random. "auto": unless the data set says that left and right matter."""
CONSTANT = 1e-6
"""Outputs count as constant if no logit's standard deviation over images exceeds this share of the largest logit."""


@dataclass(frozen=True)
class Guessing:
    """What a network reaches that ignores the images and gives all classes the same chance.

    Attributes:
        loss: Its training loss.
        accuracy: Its accuracy in [0, 1].
        formula: The loss as a formula: "ln(10)".
    """

    loss: float
    accuracy: float
    formula: str


class DataPart(Protocol):
    """The training, validation or test images of a data set."""

    @property
    def images(self) -> Sequence[Any]:
        """File paths, or uint8 arrays (H, W) or (H, W, 3)."""

    def __len__(self) -> int:
        """Return the number of images."""


class TaskData(Protocol):
    """A data set."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def train(self) -> DataPart:
        """The training images."""

    @property
    def validation(self) -> DataPart:
        """The images that rank candidates."""

    @property
    def test(self) -> DataPart:
        """The images that are used only once, at the end."""

    @property
    def folder(self) -> Path | None:
        """The image folder; None for a named data set."""


class TaskDataset(Protocol):
    """Images of one resolution with their targets, as `torch.utils.data.DataLoader` reads them."""

    resolution: int

    @property
    def digest(self) -> str:
        """Hex digits that resolution, images and targets decide."""

    @property
    def workers(self) -> int:
        """The number of processes for decoding; 0 if the images are in memory."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return an image (C, H, W), uint8, and its target."""


class Report(Protocol):
    """What a test has shown."""

    @property
    def metric(self) -> str:
        """The name of the metric: "accuracy"."""

    @property
    def picture(self) -> str:
        """The file name of its picture: "confusion.png"."""

    @property
    def metric_value(self) -> float:
        """The metric in [0, 1]."""

    @property
    def accuracy(self) -> float | None:
        """The share of correctly classified images; None if the task has no such share."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as results hold it: "metric", "test_" and the metric, and what the task adds."""

    def warn(self, reporter: Reporter) -> None:
        """Warn about what the metric hides."""

    def draw(self, title: str, path: Path) -> None:
        """Draw the report to a PNG file."""


class Task(Protocol):
    """Data, loss and metric.

    Attributes:
        data: The data set.
        metric: The name of what ranks networks.
        fit: How images of another aspect ratio are fitted: a key of `FITS`.
        input: The channels and the aspect ratio of the images that networks read.
        can_distill: Whether networks can learn from a teacher, so `distillation` and `soft_targets` can be called.
        batch_size: Images of a training step where nothing else is given.
    """

    metric: str
    fit: str
    input: InputFormat
    can_distill: bool
    batch_size: int

    @property
    def data(self) -> TaskData:
        """The data set."""

    @property
    def settings(self) -> dict[str, str]:
        """The settings that differ from their defaults, by name, as identities of runs hold them."""

    @property
    def num_classes(self) -> int:
        """The number of classes, which the head has too."""

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored at random."""

    @property
    def chance(self) -> float:
        """The metric on the validation images, in [0, 1], of a network that ignores the images."""

    @property
    def guessing(self) -> Guessing | None:
        """What guessing reaches; None if it has no known loss."""

    def renamed(self, name: str) -> Task:
        """Return the same task, with another name for its data set."""

    def for_input(self, input_format: InputFormat) -> Task:
        """Return the same task, with images for networks with this input. Raises SpaceError if it has none."""

    def report_data(self, reporter: Reporter) -> None:
        """Report the images, and what is to be known about them before a training."""

    def report_network(self, model: nn.Module, images: Any, reporter: Reporter) -> None:
        """Report, before a training, how a network fits the training images."""

    def check_part(self, images: int, key: str) -> None:
        """Raise UsageError for the setting `key` if `images` training images are too few for a part of the data."""

    def check_head(self, op: str) -> None:
        """Raise SpaceError if the block `op` is not a head for this task."""

    def check_outputs(self, outputs: Any, name: str) -> None:
        """Raise DataError, in which `name` stands for the network, if outputs do not fit the data."""

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> TaskDataset:
        """Return the augmented training images.

        Args:
            resolution: The height of the images in pixels.
            images: The size of a part; 0: all images.
            reporter: Shows the progress of decoding.
        """

    def calibration_set(self, resolution: int, images: int) -> TaskDataset:
        """Return a part of the training images without augmentation, which decide the ranges of int8 networks."""

    def validation_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> TaskDataset:
        """Return the validation images. Arguments as for `train_set`."""

    def test_set(self, resolution: int, reporter: Reporter | None = None) -> TaskDataset:
        """Return the test images."""

    def suited(self, recipe: Recipe) -> Recipe:
        """Return the recipe without augmentations that would change the targets of these images."""

    def describe_augmentation(self, recipe: Recipe) -> str:
        """Return how training images are changed at random, in words."""

    def augmented(self, train_set: Any, recipe: Recipe) -> TaskDataset:
        """Return the training images with the augmentation of a recipe."""

    def mixing(self, recipe: Recipe) -> Callable[[Tensor, Any], Batch] | None:
        """Return what mixes the float32 images of a batch and their targets, or None if the recipe mixes nothing."""

    def collate(self, items: list[tuple[Tensor, Any]]) -> Batch:
        """Return items of a data set as a batch."""

    def move(self, batch: Batch, device: torch.device, size: int | None = None) -> Batch:
        """Return a batch on a device, with images of `size` pixels in height; None: of their own size."""

    def outputs(self, model: nn.Module, images: Tensor) -> Any:
        """Return the float32 outputs for images (B, 3, H, W) with values from 0 to 255."""

    def loss_weights(self, train_set: Any) -> Tensor | None:
        """Return the weights of the classes of training images for `loss`; None without weights."""

    def loss(
        self, outputs: Any, targets: Any, label_smoothing: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            outputs: The outputs of the network.
            targets: Targets of `collate`, `mixing` or `soft_targets`.
            label_smoothing: The share of each label that is spread over all classes; None: the task's.
            weights: The result of `loss_weights`.
        """

    def distillation(self, outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
        """Return the mean divergence of softened outputs from those of a teacher."""

    def soft_targets(self, outputs: Any) -> Any:
        """Return the targets for `loss` with which other networks learn to give these outputs."""

    def evaluate(self, model: nn.Module, images: Any, device: torch.device) -> Report:
        """Return the metric of a network on a data set, and what else the task reports. Leaves it in eval mode."""

    def evaluate_exported(self, folder: Path, resolution: int) -> Report | None:
        """Return the metric of the ONNX file in a folder on the test images; None if the task does not test it."""

    def is_constant(self, outputs: Any) -> bool:
        """Return whether the outputs are the same for all images of a batch."""


def changed(task: AnyTask, **attributes: Any) -> AnyTask:
    """Return a copy of a task with other attributes. Its images are shared."""
    result = copy.copy(task)
    vars(result).update(attributes)
    return result


def for_task(network: Network, task: Task) -> Network:
    """Return an architecture or a space with a head for the classes of a task.

    Raises SpaceError if its head is that of another task.
    """
    head: BlockSpec | StageSpec = network.head
    for op in [head.op] if isinstance(head, BlockSpec) else [operator.block for operator in head.operators]:
        task.check_head(op)
    return network.for_classes(task.num_classes)


def same_for_all(logits: Tensor) -> bool:
    """Return whether logits (B, ...) are the same for all images of a batch, see CONSTANT."""
    logits = logits.double()
    return logits.std(0).max().item() <= CONSTANT * logits.abs().max().item()


def make_loader(
    task: Task, images: TaskDataset, batch_size: int, *, shuffle: bool = False, drop_last: bool = False
) -> DataLoader[Batch]:
    """Return a loader of batches. torch's global random state decides their order.

    Args:
        task: The task, which makes batches of items.
        images: The data set.
        batch_size: Images per batch.
        shuffle: Whether the order is random.
        drop_last: Whether an incomplete batch is left out.
    """
    dataset: Any = images
    return DataLoader(
        dataset, batch_size, shuffle, drop_last=drop_last, num_workers=images.workers, collate_fn=task.collate
    )
