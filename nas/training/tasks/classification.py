"""Image classification: the data sets, cross-entropy with label smoothing and class weights, and the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from nas.architecture import RGB_SQUARE, InputFormat
from nas.errors import DataError, SpaceError, UsageError
from nas.networks.block_schema import is_classifier, is_detector_head
from nas.networks.blocks import BLOCKS
from nas.networks.preprocessing import normalize
from nas.training.recipe import Recipe
from nas.training.tasks.base import FLIPS, Batch, Guessing, changed, same_for_all
from nas.training.tasks.class_balance import report_balance
from nas.training.tasks.class_report import ClassReport
from nas.training.tasks.class_weights import CLASS_WEIGHTS
from nas.training.tasks.fit import AUTO, DEFAULT_FIT, choose_fit, describe_fit
from nas.training.tasks.image_datasets import ImageDataset, augmentation, load_images, mixing, rand_augment, resized
from nas.training.tasks.metrics import METRICS, chance
from nas.training.tasks.photographs import are_photographs
from nas.training.tasks.splits import ImageData, describe_classes
from nas.utils.registry import lookup, nearest
from nas.utils.reporting import Reporter
from nas.utils.run_identity import FORMER_VALUES

EVALUATION_BATCH = 256
LABEL_SMOOTHING = 0.1


class Classification:
    """The classification of the images of one data set.

    Attributes:
        data: The data set.
        metric: What ranks networks: a key of `METRICS`.
        class_weights: How the training loss weighs the classes: a key of `CLASS_WEIGHTS`.
        fit: How images of another aspect ratio are fitted: a key of `FITS`.
        flip: Whether training images are mirrored: one of `FLIPS`.
        input: The channels and the aspect ratio of the images that networks read.
    """

    can_distill = True
    batch_size = Recipe.batch_size

    def __init__(
        self,
        data: ImageData,
        metric: str = "accuracy",
        class_weights: str = "none",
        fit: str = DEFAULT_FIT,
        flip: str = "auto",
        input_format: InputFormat = RGB_SQUARE,
    ):
        self.data, self.metric, self.class_weights, self.fit, self.flip = data, metric, class_weights, fit, flip
        self.input, self._fits_itself = input_format, False

    @classmethod
    def load(
        cls,
        name: str,
        root: str | None = None,
        metric: str = "accuracy",
        class_weights: str = "none",
        fit: str = AUTO,
        flip: str = "auto",
    ) -> Classification:
        """Return the task on a named data set or an image folder.

        Args:
            name: The name or the path.
            root: The folder of the named data sets; None: the user's cache.
            metric: A key of `METRICS`.
            class_weights: A key of `CLASS_WEIGHTS`.
            fit: A key of `FITS`, or "auto", which depends on the images.
            flip: One of `FLIPS`.

        Raises:
            DataError: The data set is unknown or invalid.
            UsageError: The metric, the class weights, the fit or the flip is unknown.
        """
        lookup(METRICS, metric, "metric", "--metric")
        lookup(CLASS_WEIGHTS, class_weights, "class_weights", "--class-weights")
        lookup(dict.fromkeys(FLIPS), flip, "flip", "--flip")
        data = load_images(name, root)
        task = cls(data, metric, class_weights, choose_fit(fit, data), flip)
        task._fits_itself = fit == AUTO
        return task

    def renamed(self, name: str) -> Classification:
        """Return the same task, with another name for its data set."""
        return changed(self, data=replace(self.data, name=name))

    def for_input(self, input_format: InputFormat) -> Classification:
        """Return the same task, with images for networks with this input. A fit of "auto" is chosen again for it."""
        again = self._fits_itself and input_format.aspect != self.input.aspect
        return changed(self, input=input_format, fit=choose_fit(AUTO, self.data, input_format) if again else self.fit)

    def report_data(self, reporter: Reporter) -> None:
        """Report the images per class, the files that are not used, the fit, and classes that have few images."""
        for line in (describe_classes(self.data), *self.data.notes, *describe_fit(self.fit, self.data, self.input)):
            reporter.say(line)
        report_balance(self.data, self.metric, reporter)

    def report_network(self, model: nn.Module, images: ImageDataset, reporter: Reporter) -> None:
        """Report nothing: every classifier fits every image."""

    @property
    def settings(self) -> dict[str, str]:
        """The settings that differ from their defaults, by name. The defaults are left out: older runs lack them."""
        settings = {"metric": self.metric, "class_weights": self.class_weights, "fit": self.fit, "flip": self.flip}
        return {key: value for key, value in settings.items() if value != FORMER_VALUES[key]}

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored at random."""
        return self.data.flip if self.flip == "auto" else self.flip == "on"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.data.classes)

    @property
    def chance(self) -> float:
        """The metric on the validation images, in [0, 1], of a network that names the most frequent class."""
        return chance(self.metric, self.data.validation.labels)

    @property
    def guessing(self) -> Guessing:
        """What a network reaches that gives all classes the same chance."""
        return Guessing(math.log(self.num_classes), 1 / self.num_classes, f"ln({self.num_classes})")

    def check_part(self, images: int, key: str) -> None:
        """Raise UsageError for the setting `key` if a part of `images` training images cannot hold all classes."""
        if 0 < images < self.num_classes:
            rule = f"must be at least the number of classes, {self.num_classes}, or 0"
            raise UsageError(rule, key=key, value=images)

    def check_head(self, op: str) -> None:
        """Raise SpaceError if the block `op` is no classifier."""
        if not is_classifier(op):
            known = nearest(op, filter(is_classifier, BLOCKS))
            if is_detector_head(op):
                known = "; detectors are for --task detection"
            raise SpaceError("must be a classifier", where="head", key="block", value=op, nearest=known)

    def check_outputs(self, outputs: Any, name: str) -> None:
        """Raise DataError, in which `name` stands for the network, if outputs are not logits (B, num_classes)."""
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise DataError(f"'{self.data.name}' needs a classifier, {name} has other outputs", where="--data")
        classes = outputs.shape[-1]
        if classes != self.num_classes:
            raise DataError(f"'{self.data.name}' has {self.num_classes} classes, {name} has {classes}", where="--data")

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> ImageDataset:
        """Return the augmented training images.

        Args:
            resolution: The height of the images in pixels.
            images: The size of a stratified part; 0: all images.
            reporter: Shows the progress of decoding.
        """
        augment = augmentation(self.input.shape(resolution), self.flips)
        return ImageDataset(self.data.train.part(images), resolution, augment, reporter, self.fit, self.input)

    def calibration_set(self, resolution: int, images: int) -> ImageDataset:
        """Return a stratified part of the training images without augmentation."""
        return ImageDataset(self.data.train.part(images), resolution, None, None, self.fit, self.input)

    def validation_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> ImageDataset:
        """Return the validation images, which rank candidates. Arguments as for `train_set`."""
        return ImageDataset(self.data.validation.part(images), resolution, None, reporter, self.fit, self.input)

    def test_set(self, resolution: int, reporter: Reporter | None = None) -> ImageDataset:
        """Return the test images, which are used only once, at the end."""
        return ImageDataset(self.data.test, resolution, None, reporter, self.fit, self.input)

    def suited(self, recipe: Recipe) -> Recipe:
        """Return the recipe without random resized crops if the images are no photographs, or must not be mirrored.

        A part of a digit or of another sign may be a different one.
        """
        if not recipe.crop_scale or (self.flips and are_photographs(self.data.train.images)):
            return recipe
        return replace(recipe, crop_scale=0.0)

    def describe_augmentation(self, recipe: Recipe) -> str:
        """Return how training images are changed at random, in words."""
        crops = "crops after padding by an eighth"
        if recipe.crop_scale:
            crops = f"random resized crops of at least {recipe.crop_scale:.0%} of the area"
        steps = [crops, *(["mirroring"] if self.flips else [])]
        settings = {"RandAugment": recipe.randaugment, "mixup": recipe.mixup, "CutMix": recipe.cutmix}
        return ", ".join([*steps, *(f"{name} {value:g}" for name, value in settings.items() if value)])

    def augmented(self, train_set: ImageDataset, recipe: Recipe) -> ImageDataset:
        """Return the training images with the random crops and the RandAugment of a recipe.

        Raises UsageError for RandAugment of images with alpha, which has no operations for it.
        """
        if recipe.randaugment and self.input.channels == 4:
            rule = "applies to gray and RGB images only; these have an alpha channel"
            raise UsageError(rule, key="randaugment", value=recipe.randaugment)
        if recipe.crop_scale:
            train_set = train_set.with_augmentation(augmentation(train_set.shape, self.flips, recipe.crop_scale))
        return train_set.also(rand_augment(recipe.randaugment)) if recipe.randaugment else train_set

    def mixing(self, recipe: Recipe) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """Return the recipe's mixup or CutMix of float32 images and labels (B,) into class shares; None without."""
        return mixing(self.num_classes, recipe.mixup, recipe.cutmix)

    @staticmethod
    def collate(items: list[tuple[Tensor, int]]) -> Batch:
        """Return images (B, C, H, W) and labels (B,)."""
        images, labels = default_collate(items)
        return images, labels

    def move(self, batch: Batch, device: torch.device, size: int | None = None) -> Batch:
        """Return a batch on a device, with images of `size` pixels in height; None: of their own size."""
        images, labels = batch
        images = images if size is None else resized(images, *self.input.shape(size)[1:])
        return images.to(device), labels.to(device)

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the float32 logits (B, num_classes) of images (B, C, H, W) with values from 0 to 255."""
        logits: Tensor = model(normalize(images))
        return logits.float()

    def loss_weights(self, train_set: ImageDataset) -> Tensor | None:
        """Return the weights (num_classes,) of the classes of training images; None without weights."""
        weights = CLASS_WEIGHTS[self.class_weights](train_set.labels, self.num_classes)
        return None if weights is None else torch.tensor(weights)

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss of logits (B, num_classes).

        Args:
            outputs: The logits.
            targets: Classes (B,), or class shares (B, num_classes).
            label_smoothing: The share of each label that is spread over all classes; None: LABEL_SMOOTHING.
            weights: The weights (num_classes,) of the classes; None: all count the same.
        """
        smoothing = LABEL_SMOOTHING if label_smoothing is None else label_smoothing
        if weights is None:
            return F.cross_entropy(outputs, targets, label_smoothing=smoothing)
        return weighted_cross_entropy(outputs, targets, smoothing, weights)

    def distillation(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """Return the mean divergence of softened outputs from a teacher's (Hinton et al. 2015, section 2).

        Both logits are (B, num_classes). The factor temperature^2 keeps the gradients at the same scale.
        """
        student, teacher = (F.log_softmax(each / temperature, 1) for each in (outputs, teacher_outputs))
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def soft_targets(self, outputs: Tensor) -> Tensor:
        """Return the class shares (B, num_classes) of logits, without their gradient."""
        return outputs.detach().softmax(1)

    def evaluate(self, model: nn.Module, images: ImageDataset, device: torch.device) -> ClassReport:
        """Return the metric, the accuracy and the results by class. Leaves the model in eval mode."""
        pairs = self.class_pairs(model, images, device)
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        return ClassReport(self.metric, self.data.classes, counts.reshape(self.num_classes, self.num_classes), pairs)

    def evaluate_exported(self, folder: Path, resolution: int) -> None:
        """Return None: the outputs of an exported classifier are compared with the network's, see `export_folder`."""

    def is_constant(self, outputs: Tensor) -> bool:
        """Return whether logits (B, num_classes) are the same for all images."""
        return same_for_all(outputs)

    @torch.no_grad()
    def class_pairs(self, model: nn.Module, images: ImageDataset, device: torch.device) -> Tensor:
        """Return C * true class + predicted class of each image (N,), in their order. Leaves the model in eval mode."""
        model.eval()
        pairs = []
        for batch, labels in DataLoader(
            images, EVALUATION_BATCH, generator=torch.Generator(), num_workers=images.workers
        ):
            logits = model(normalize(batch.to(device)).contiguous(memory_format=torch.channels_last))
            pairs.append(labels.to(device) * self.num_classes + logits.argmax(1))
        return torch.cat(pairs).cpu()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor) -> Tensor:
    """Return the cross-entropy as a mean over the images, weighted by their classes.

    An image of class c has w_c times the loss with the smoothed label. So label smoothing spreads the label of a
    frequent class evenly. torch's `weight` would spread it by the weights, mostly to rare classes. Class shares, as of
    mixup, mix the weighted losses of their classes (Zhang et al. 2018). As in torch, the sum is divided by the weights
    of the batch. Without smoothing, the result for classes is that of torch's `weight`.

    Args:
        logits: Outputs (B, C).
        labels: Classes (B,), or class shares (B, C).
        label_smoothing: The share of each label that is spread over all classes.
        weights: The weights (C,).
    """
    shares = labels if labels.ndim == logits.ndim else F.one_hot(labels, logits.shape[1])
    weighted, log_probabilities = shares * weights, F.log_softmax(logits, 1)
    own = (weighted * log_probabilities).sum(1)
    spread = weighted.sum(1) * log_probabilities.mean(1)
    return -((1 - label_smoothing) * own + label_smoothing * spread).sum() / weighted.sum()
