"""A small task that is no classification: images have lists of boxes, and a network tells where their mean lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import RGB_SQUARE, InputFormat
from nas.errors import DataError, SpaceError, UsageError
from nas.networks.preprocessing import normalize
from nas.training.recipe import Recipe
from nas.training.tasks.base import Batch
from nas.training.tasks.image_datasets import ImageDataset, load_images, resized
from nas.training.tasks.splits import ImageData, Split
from nas.utils.reporting import Reporter

SIDES = ("left", "top", "right", "bottom")
Corners = tuple[Tensor, Tensor]
"""The upper left and the lower right corners (B, 2), as shares of the image."""


class BoxImages:
    """Images with one to three boxes (N, 4) around their bright pixels, as shares of the image."""

    def __init__(self, part: Split, resolution: int):
        self._images, self.resolution, self.workers = ImageDataset(part, resolution), resolution, 0

    @property
    def digest(self) -> str:
        return f"boxes {self._images.digest}"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, _ = self._images[index]
        rows, columns = (torch.nonzero((image[0] > 128).any(axis)).flatten() for axis in (1, 0))
        sides = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        box = torch.stack([side.float() / self.resolution for side in sides])
        return image, torch.stack([box + 0.01 * number for number in range(1 + index % 3)])


@dataclass(frozen=True)
class BoxReport:
    """One minus the mean distance of corners."""

    metric_value: float
    metric: str = "closeness"
    accuracy: None = None
    picture: str = "closeness.png"

    def to_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, f"test_{self.metric}": self.metric_value}

    def warn(self, reporter: Reporter) -> None:
        reporter.say("nothing is hidden")

    def draw(self, title: str, path: Path) -> None:
        path.write_text(title)


class BoxTask:
    """Finds the mean box of the digits."""

    metric, fit, can_distill, flips, num_classes, guessing, chance = "closeness", "crop", False, False, 4, None, 0.0
    batch_size = 32
    input = RGB_SQUARE

    def __init__(self, data: ImageData):
        self.data = data

    @classmethod
    def load(cls, name: str, root: str | None = None) -> BoxTask:
        return cls(replace(load_images(name, root), classes=SIDES))

    @property
    def settings(self) -> dict[str, str]:
        return {"task": "boxes"}

    def renamed(self, name: str) -> BoxTask:
        return BoxTask(replace(self.data, name=name))

    def for_input(self, input_format: InputFormat) -> BoxTask:
        return self

    def report_data(self, reporter: Reporter) -> None:
        reporter.say(f"{len(self.data.train)} images with boxes")

    def report_network(self, model: nn.Module, images: BoxImages, reporter: Reporter) -> None:
        reporter.say(f"{len(images)} images")

    def check_part(self, images: int, key: str) -> None:
        if images == 1:
            raise UsageError("must be at least 2, or 0", key=key, value=images)

    def check_head(self, op: str) -> None:
        if op == "features":
            raise SpaceError(f"'{op}' tells no boxes", where="head")

    def check_outputs(self, outputs: Corners, name: str) -> None:
        if any(each.shape[1:] != (2,) for each in outputs):
            raise DataError(f"a box has 4 sides, {name} has other outputs", where="--data")

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> BoxImages:
        return BoxImages(self.data.train.part(images), resolution)

    def calibration_set(self, resolution: int, images: int) -> BoxImages:
        return BoxImages(self.data.train.part(images), resolution)

    def validation_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> BoxImages:
        return BoxImages(self.data.validation.part(images), resolution)

    def test_set(self, resolution: int, reporter: Reporter | None = None) -> BoxImages:
        return BoxImages(self.data.test, resolution)

    def suited(self, recipe: Recipe) -> Recipe:
        return recipe

    def describe_augmentation(self, recipe: Recipe) -> str:
        return "none"

    def augmented(self, train_set: BoxImages, recipe: Recipe) -> BoxImages:
        return train_set

    def mixing(self, recipe: Recipe) -> Callable[[Tensor, Any], Batch] | None:
        return None

    @staticmethod
    def collate(items: list[tuple[Tensor, Tensor]]) -> Batch:
        return torch.stack([image for image, _ in items]), [boxes for _, boxes in items]

    def move(self, batch: Batch, device: torch.device, size: int | None = None) -> Batch:
        images, boxes = batch
        images = images if size is None else resized(images, size, size)
        return images.to(device), [each.to(device) for each in boxes]

    def outputs(self, model: nn.Module, images: Tensor) -> Corners:
        sides = model(normalize(images)).float()
        return sides[:, :2], sides[:, 2:]

    def loss_weights(self, train_set: BoxImages) -> None:
        return None

    def loss(
        self,
        outputs: Corners,
        targets: list[Tensor],
        label_smoothing: float | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        return self._distances(outputs, targets).mean()

    def distillation(self, outputs: Corners, teacher_outputs: Corners, temperature: float) -> Tensor:
        raise AssertionError("networks cannot learn from a teacher")

    def soft_targets(self, outputs: Corners) -> list[Tensor]:
        raise AssertionError("networks cannot learn from a teacher")

    @torch.no_grad()
    def evaluate(self, model: nn.Module, images: BoxImages, device: torch.device) -> BoxReport:
        batch, boxes = self.move(self.collate([images[index] for index in range(len(images))]), device)
        distances = self._distances(self.outputs(model.eval(), batch), boxes)
        return BoxReport(1 - distances.clamp(0, 1).mean().item())

    def evaluate_exported(self, folder: Path, resolution: int) -> None:
        """Return None: exported files are not tested."""

    def is_constant(self, outputs: Corners) -> bool:
        return all(bool((each == each[:1]).all()) for each in outputs)

    def _distances(self, outputs: Corners, targets: list[Tensor]) -> Tensor:
        means = torch.stack([boxes.mean(0) for boxes in targets])
        return (torch.cat(outputs, 1) - means).abs().mean(1)
