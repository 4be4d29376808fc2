"""Object detection: images with boxes, the loss of each head, and the COCO metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.architecture import RGB_SQUARE, InputFormat
from nas.errors import DataError, SpaceError, UsageError
from nas.networks.block_schema import is_classifier, is_detector_head
from nas.networks.blocks import BLOCKS
from nas.networks.blocks.select_boxes import SelectBoxes
from nas.networks.preprocessing import normalize
from nas.training.detection.average_precision import Found, Truth, average_precision
from nas.training.detection.box_report import METRICS, BoxReport
from nas.training.detection.boxes import BoxData, BoxSplit, describe_boxes
from nas.training.detection.dataset import BoxDataset, Target, augmentation
from nas.training.detection.folders import load_boxes
from nas.training.detection.losses import LOSSES, matched_by_size
from nas.training.recipe import Recipe
from nas.training.tasks.base import FLIPS, Batch, changed, same_for_all
from nas.training.tasks.fit import AUTO
from nas.training.tasks.image_datasets import resized
from nas.utils.registry import lookup, nearest
from nas.utils.reporting import Reporter

EVALUATION_BATCH = 32
EXPORTED = "detector.onnx"
FITS = ("pad", "stretch")
FEW_MATCHED = 0.95
"""If anchors match less of the boxes than this, small or long objects are hardly learned."""


@dataclass(frozen=True)
class Predictions:
    """The outputs of a detector for a batch of images.

    Attributes:
        boxes: Boxes (B, N, 4) in the coding of the head.
        classes: Logits (B, N, C).
        anchors: What the boxes are relative to, (N, 4).
        coding: What the numbers mean, see `SelectBoxes`.
        image: Height and width of the images in pixels.
    """

    boxes: Tensor
    classes: Tensor
    anchors: Tensor
    coding: str
    image: tuple[int, int]


class Detection:
    """The detection of the objects in the images of one data set.

    Attributes:
        data: The data set.
        metric: What ranks networks: "AP" or "AP50".
        fit: How images of another aspect ratio are fitted: "pad" or "stretch".
        flip: Whether training images are mirrored: one of `FLIPS`.
        input: The channels and the aspect ratio of the images that networks read.
    """

    can_distill = False
    batch_size = 8
    chance = 0.0
    guessing = None

    def __init__(self, data: BoxData, metric: str = "AP", fit: str = "pad", flip: str = "auto"):
        self.data, self.metric, self.fit, self.flip = data, metric, fit, flip
        self.input = RGB_SQUARE

    @classmethod
    def load(
        cls,
        name: str,
        root: str | None = None,
        metric: str = "AP",
        class_weights: str = "none",
        fit: str = AUTO,
        flip: str = "auto",
    ) -> Detection:
        """Return the task on a named data set, a folder or a COCO file.

        Args:
            name: The name or the path.
            root: The folder of the named data sets.
            metric: "AP" or "AP50". "accuracy", the default of classification, stands for "AP".
            class_weights: Only "none".
            fit: "pad" or "stretch"; "auto" pads, which keeps the shapes of objects.
            flip: One of `FLIPS`.

        Raises:
            DataError: The data set is unknown or invalid.
            UsageError: A setting is unknown, or does not apply to detection.
        """
        metric = "AP" if metric == "accuracy" else metric
        lookup(METRICS, metric, "metric", "--metric")
        lookup(dict.fromkeys(FLIPS), flip, "flip", "--flip")
        if class_weights != "none":
            raise UsageError("applies to classification only", key="class_weights", value=class_weights)
        if fit not in (AUTO, *FITS):
            rule = f"must be one of {', '.join(FITS)} for detection: a crop would cut off objects"
            raise UsageError(rule, key="fit", value=fit, nearest=nearest(fit, FITS))
        return cls(load_boxes(DEFAULT_DATA if name == "digits" else name, root), metric, fit.replace(AUTO, "pad"), flip)

    @property
    def settings(self) -> dict[str, str]:
        """The settings by name; without a flip that the data decide."""
        found = {"task": "detection", "metric": self.metric, "fit": self.fit}
        return found if self.flip == "auto" else {**found, "flip": self.flip}

    @property
    def num_classes(self) -> int:
        """The number of classes of objects."""
        return len(self.data.classes)

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored at random."""
        return self.data.flip if self.flip == "auto" else self.flip == "on"

    def renamed(self, name: str) -> Detection:
        """Return the same task, with another name for its data set."""
        return changed(self, data=replace(self.data, name=name))

    def for_input(self, input_format: InputFormat) -> Detection:
        """Return the same task, with images for networks with this input."""
        return changed(self, input=input_format)

    def report_data(self, reporter: Reporter) -> None:
        """Report the images and boxes by class, and what the annotations had that is not used."""
        for line in (describe_boxes(self.data), *self.data.notes):
            reporter.say(line)

    def report_network(self, model: nn.Module, images: BoxDataset, reporter: Reporter) -> None:
        """Report the share of the training boxes that an anchor of the network matches, by size."""
        image = images[0][0][None].to(next(model.parameters()).device)
        with torch.no_grad():
            found = self.outputs(model.eval(), image)
        if found.coding == "distances":
            return
        targets = [images.target(index) for index in range(len(images))]
        counts = matched_by_size(found.anchors.cpu(), targets)
        whole, matched = (sum(pair[part] for pair in counts.values()) for part in (0, 1))
        by_size = ", ".join(f"{size} {pair[1] / pair[0]:.0%} of {pair[0]}" for size, pair in counts.items() if pair[0])
        share, size = matched / max(1, whole), self.input.size(found.image[0])
        line = f"an anchor overlaps {share:.1%} of the {whole:,} training boxes by a half at {size} px"
        reporter.say(f"{line} ({by_size}); the others learn from their closest anchor")
        if share < FEW_MATCHED:
            reporter.warn("boxes that no anchor fits are hardly learned: a higher --resolution helps small objects")

    def check_part(self, images: int, key: str) -> None:
        """Raise UsageError for the setting `key` if a part of so many training images is too small."""
        if images == 1:
            raise UsageError("must be at least 2, or 0 for all", key=key, value=images)

    def check_head(self, op: str) -> None:
        """Raise SpaceError if the block `op` is not the head of a detector."""
        if not is_detector_head(op):
            known = nearest(op, filter(is_detector_head, BLOCKS))
            if is_classifier(op):
                known = "; classifiers are for --task classification, the default"
            raise SpaceError("must be the head of a detector", where="head", key="block", value=op, nearest=known)

    def check_outputs(self, outputs: Predictions, name: str) -> None:
        """Raise DataError, in which `name` stands for the network, if its classes are not those of the data."""
        classes = outputs.classes.shape[-1] - (outputs.coding == "ssd")
        if classes != self.num_classes:
            raise DataError(f"'{self.data.name}' has {self.num_classes} classes, {name} has {classes}", where="--data")

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> BoxDataset:
        """Return the augmented training images; `images` of them, or all."""
        augment = augmentation(self.input.shape(resolution), self.flips)
        return BoxDataset(self.data.train.part(images), resolution, augment, reporter, self.fit, self.input)

    def calibration_set(self, resolution: int, images: int) -> BoxDataset:
        """Return a part of the training images without augmentation."""
        return BoxDataset(self.data.train.part(images), resolution, None, None, self.fit, self.input)

    def validation_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> BoxDataset:
        """Return the validation images, which rank candidates. Arguments as for `train_set`."""
        return BoxDataset(self.data.validation.part(images), resolution, None, reporter, self.fit, self.input)

    def test_set(self, resolution: int, reporter: Reporter | None = None) -> BoxDataset:
        """Return the test images, which are used only once, at the end."""
        return BoxDataset(self.data.test, resolution, None, reporter, self.fit, self.input)

    def suited(self, recipe: Recipe) -> Recipe:
        """Return the recipe without random resized crops: detection has crops of its own, that keep boxes."""
        return replace(recipe, crop_scale=0.0)

    def describe_augmentation(self, recipe: Recipe) -> str:
        """Return how training images are changed at random, in words."""
        return ", ".join(["colors", "zooming out", "crops that keep boxes", *(["mirroring"] if self.flips else [])])

    def augmented(self, train_set: BoxDataset, recipe: Recipe) -> BoxDataset:
        """Return the training images. Raises UsageError for augmentations of classification."""
        for key in ("randaugment", "mixup", "cutmix", "crop_scale"):
            if getattr(recipe, key):
                raise UsageError("applies to classification only", key=key, value=getattr(recipe, key))
        return train_set

    def mixing(self, recipe: Recipe) -> Callable[[Tensor, Any], Batch] | None:
        """Return None: images with boxes are not mixed."""
        return None

    @staticmethod
    def collate(items: list[tuple[Tensor, Target]]) -> Batch:
        """Return images (B, C, H, W) and the target of each."""
        return torch.stack([image for image, _ in items]), [target for _, target in items]

    def move(self, batch: Batch, device: torch.device, size: int | None = None) -> Batch:
        """Return a batch on a device, with images of `size` pixels in height; None: of their own size."""
        images, targets = batch
        height, width = images.shape[-2:] if size is None else self.input.shape(size)[1:]
        scale = width / images.shape[-1], height / images.shape[-2]
        return resized(images, height, width).to(device), [target.to(device, scale) for target in targets]

    def outputs(self, model: nn.Module, images: Tensor) -> Predictions:
        """Return the predictions for images (B, C, H, W) with values from 0 to 255."""
        head: Any = next((module for module in model.modules() if hasattr(type(module), "coding")), None)
        if head is None:
            raise DataError(f"'{self.data.name}' needs a detector, the network has other outputs", where="--data")
        sizes: list[tuple[int, int]] = []

        def note(_: nn.Module, arguments: Any) -> None:
            sizes[:] = [(int(x.shape[-2]), int(x.shape[-1])) for x in arguments[0]]

        handle = head.register_forward_pre_hook(note)
        try:
            boxes, classes = model(normalize(images))
        finally:
            handle.remove()
        image = int(images.shape[-2]), int(images.shape[-1])
        anchors = head.anchors(sizes, image).to(boxes.device)
        return Predictions(boxes.float(), classes.float(), anchors, head.coding, image)

    def loss_weights(self, train_set: BoxDataset) -> None:
        """Return None: classes are not weighed."""
        return

    def loss(
        self,
        outputs: Predictions,
        targets: Sequence[Target],
        label_smoothing: float | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch by the coding of the head, see `LOSSES`. The last two arguments are not used."""
        return LOSSES[outputs.coding](outputs.boxes, outputs.classes, outputs.anchors, targets)

    def distillation(self, outputs: Predictions, teacher_outputs: Predictions, temperature: float) -> Tensor:
        """Raise NotImplementedError: detectors do not learn from a teacher."""
        raise NotImplementedError

    def soft_targets(self, outputs: Predictions) -> Any:
        """Raise NotImplementedError: detectors do not learn from a teacher."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, images: BoxDataset, device: torch.device) -> BoxReport:
        """Return the COCO metric of a network with its post-processing. Leaves the model in eval mode."""
        return self._report(self.detections(model, images, device), images)

    def evaluate_exported(self, folder: Path, resolution: int) -> BoxReport:
        """Return the COCO metric of `detector.onnx` on the test images, run by ONNX Runtime image by image."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / EXPORTED), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(batch: Tensor) -> list[Tensor]:
            return [torch.from_numpy(each) for each in session.run(None, {name: normalize(batch).numpy()})]

        images = self.test_set(resolution)
        return self._report(self._found(run, images, 1), images)

    @torch.no_grad()
    def detections(self, model: nn.Module, images: BoxDataset, device: torch.device) -> list[Found]:
        """Return the boxes found in each image, in pixels of the original images. Leaves the model in eval mode."""
        model.eval()

        def run(batch: Tensor) -> Sequence[Tensor]:
            outputs = self.outputs(model, batch.to(device).contiguous(memory_format=torch.channels_last))
            select = SelectBoxes((len(outputs.anchors),) * 2, coding=outputs.coding)  # type: ignore[arg-type]
            select.to(device).place(outputs.anchors, outputs.image)
            selected: Sequence[Tensor] = select([outputs.boxes, outputs.classes])
            return selected

        return self._found(run, images, EVALUATION_BATCH)

    def _found(self, run: Callable[[Tensor], Sequence[Tensor]], images: BoxDataset, batch_size: int) -> list[Found]:
        """Return the boxes that `run`, a network with post-processing, finds in each original image."""
        dataset: Any = images
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size, generator=torch.Generator(), num_workers=images.workers, collate_fn=self.collate
        )
        found: list[Found] = []
        for batch, _ in loader:
            for corners, scores, classes, count in zip(*run(batch), strict=True):
                number = int(count)
                original = images.placement(len(found)).original(corners[:number].cpu())
                width, height = images.split.sizes[len(found)]
                limit = torch.tensor([width, height] * 2, dtype=original.dtype)
                inside = torch.minimum(original.clamp(min=0.0), limit)
                found.append(Found(inside, scores[:number].cpu(), classes[:number].cpu()))
        return found

    def _report(self, found: list[Found], images: BoxDataset) -> BoxReport:
        truth = truths(images.split)
        precision = average_precision(truth, found, self.data.classes)
        return BoxReport(self.metric, precision, (images.split.images, truth, found))

    def is_constant(self, outputs: Predictions) -> bool:
        """Return whether the logits are the same for all images."""
        return same_for_all(outputs.classes)


DEFAULT_DATA = "digit_canvases"
"""The data set that detection has instead of `digits`."""


def truths(split: BoxSplit) -> list[Truth]:
    """Return the ground truth of each image."""
    return [
        Truth(boxes.corners, boxes.classes, boxes.crowd, boxes.areas, *size)
        for boxes, size in zip(split.boxes, split.sizes, strict=True)
    ]
