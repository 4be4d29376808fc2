"""Images with boxes at one resolution, decoded in advance if they fit into memory, and their augmentation."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nas.architecture import RGB_SQUARE, InputFormat, Shape
from nas.networks.preprocessing import PADDING, padded_place
from nas.training.detection.boxes import Boxes, BoxSplit
from nas.training.tasks.image_datasets import ImageDataset
from nas.training.tasks.splits import Split
from nas.utils.reporting import Reporter

LEAST_SIDE = 1.0
"""Boxes whose smaller side is below this many pixels of the network's input are not trained on."""
ZOOM_OUT, ZOOM_SHARE = (1.0, 2.0), 0.3
"""Range of the canvas around a smaller image, and how often there is one."""
CROP_SHARE = 0.5
"""How often a crop keeps a part of the boxes."""
CROP_TRIALS = 10
"""Random crops for each overlap that is wanted; with the library's 40, crops take as long as a small network."""


@dataclass(frozen=True, eq=False)
class Target:
    """The boxes of one training image.

    Attributes:
        corners: Left, top, right, bottom (N, 4) in pixels of the image.
        classes: Their classes (N,).
        crowd: Regions (M, 4) that are ignored.
    """

    corners: Tensor
    classes: Tensor
    crowd: Tensor

    def to(self, device: torch.device, scale: tuple[float, float] = (1.0, 1.0)) -> Target:
        """Return the target on a device, with x and y of the corners times `scale`."""
        factors = self.corners.new_tensor([*scale, *scale], device=device)
        corners, crowd = (each.to(device) * factors for each in (self.corners, self.crowd))
        return Target(corners, self.classes.to(device), crowd)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in an input: x -> x * scale_x + left, y -> y * scale_y + top."""

    scale_x: float
    scale_y: float
    left: float
    top: float

    @classmethod
    def of(cls, width: int, height: int, size: tuple[int, int], fit: str) -> Placement:
        """Return the placement that `fitted` gives an image in an input; `fit` is "pad" or "stretch"."""
        if fit == "stretch":
            return cls(size[1] / width, size[0] / height, 0, 0)
        high, wide, left, top = padded_place(height, width, *size)
        return cls(wide / width, high / height, left, top)

    def inside(self, corners: Tensor) -> Tensor:
        """Return corners (N, 4) of the original image in the input."""
        return corners * corners.new_tensor([self.scale_x, self.scale_y] * 2) + corners.new_tensor(
            [self.left, self.top] * 2
        )

    def original(self, corners: Tensor) -> Tensor:
        """Return corners (N, 4) of the input in the original image."""
        shift, scale = corners.new_tensor([self.left, self.top] * 2), [self.scale_x, self.scale_y] * 2
        return (corners - shift) / corners.new_tensor(scale)


class BoxDataset(Dataset[tuple[Tensor, Target]]):
    """A split with items (uint8 image (C, H, W), `Target`).

    Args:
        split: The images and boxes.
        resolution: The height H of the items in pixels.
        augment: Applied to each image and target.
        reporter: Shows the progress of decoding.
        fit: How an image of another aspect ratio is fitted: "pad" or "stretch".
        input_format: The channels C and the aspect ratio of the items.
    """

    def __init__(
        self,
        split: BoxSplit,
        resolution: int,
        augment: Callable[[Tensor, Target], tuple[Tensor, Target]] | None = None,
        reporter: Reporter | None = None,
        fit: str = "pad",
        input_format: InputFormat = RGB_SQUARE,
    ):
        self.split, self.resolution, self.fit, self._augment = split, resolution, fit, augment
        numbered = Split(split.images, tuple(range(len(split))))
        self._images = ImageDataset(numbered, resolution, None, reporter, fit, input_format)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of resolution, fit, images and boxes. Only the names of files are included."""
        digest = hashlib.sha256(f"boxes {self._images.digest}".encode())
        for boxes in self.split.boxes:
            for values in (boxes.corners, boxes.classes, boxes.crowd):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    @property
    def workers(self) -> int:
        """The number of processes for decoding; 0 if the images are in memory."""
        return self._images.workers

    def with_augmentation(self, augment: Callable[[Tensor, Target], tuple[Tensor, Target]] | None) -> BoxDataset:
        """Return the same images with another augmentation. Decoded images are shared."""
        result = copy.copy(self)
        result._augment = augment
        return result

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self._images[index][0], self.target(index)
        return self._augment(image, target) if self._augment else (image, target)

    def placement(self, index: int) -> Placement:
        """Return where an image lies in the input."""
        return Placement.of(*self.split.sizes[index], self._images.shape[1:], self.fit)

    def target(self, index: int) -> Target:
        """Return the boxes of an image in pixels of the input."""
        boxes: Boxes = self.split.boxes[index]
        corners = self.placement(index).inside(torch.from_numpy(boxes.corners))
        crowd = torch.from_numpy(boxes.crowd)
        plain = ~crowd & ((corners[:, 2:] - corners[:, :2]).amin(1) >= LEAST_SIDE)
        return Target(corners[plain], torch.from_numpy(boxes.classes)[plain], corners[crowd])


def augmentation(shape: Shape, flip: bool) -> Callable[[Tensor, Target], tuple[Tensor, Target]]:
    """Return the augmentation of SSD (Liu et al. 2016, section 2.2) by torchvision's transforms.

    Colors of RGB are distorted, the image is shrunk into a larger one or cropped so that boxes remain, and mirrored.

    Args:
        shape: The images, (C, H, W).
        flip: Whether images are mirrored at random.
    """
    from torchvision.transforms import v2

    steps: list[Any] = [
        *([v2.RandomPhotometricDistort(p=0.5)] if shape[0] == 3 else []),
        v2.RandomZoomOut(fill=list(PADDING[shape[0]]), side_range=ZOOM_OUT, p=ZOOM_SHARE),
        v2.RandomApply([v2.RandomIoUCrop(trials=CROP_TRIALS)], p=CROP_SHARE),
        *([v2.RandomHorizontalFlip()] if flip else []),
        v2.Resize(shape[1:], antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE, labels_getter=_labels),
    ]
    return _Augment(v2.Compose(steps))


def _labels(sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return what belongs to the boxes; a lambda cannot be pickled."""
    return sample["labels"], sample["crowd"]


class _Augment:
    """Applies torchvision's transforms to an image and its target."""

    def __init__(self, transform: Any):
        self._transform = transform

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        from torchvision import tv_tensors

        corners = torch.cat([target.corners, target.crowd])
        is_crowd = torch.arange(len(corners)) >= len(target.corners)
        labels = torch.cat([target.classes, target.classes.new_zeros(len(target.crowd))])
        size: Any = tuple(image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(corners.reshape(-1, 4), format="XYXY", canvas_size=size)
        found = self._transform({"image": tv_tensors.Image(image), "boxes": boxes, "labels": labels, "crowd": is_crowd})
        changed = found["boxes"].as_subclass(Tensor)
        plain = ~found["crowd"]
        pixels: Tensor = found["image"].as_subclass(Tensor)
        return pixels, Target(changed[plain], found["labels"][plain], changed[~plain])
