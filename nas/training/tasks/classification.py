"""Image classification: the data sets, cross-entropy with label smoothing and class weights, and the metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.errors import UsageError
from nas.networks.preprocessing import normalize
from nas.training.tasks.class_balance import report_balance
from nas.training.tasks.class_report import ClassReport
from nas.training.tasks.class_weights import CLASS_WEIGHTS
from nas.training.tasks.fit import AUTO, DEFAULT_FIT, choose_fit, describe_fit
from nas.training.tasks.image_datasets import ImageDataset, augmentation, load_images
from nas.training.tasks.metrics import METRICS
from nas.training.tasks.metrics import accuracy as accuracy_of
from nas.training.tasks.splits import ImageData, describe_classes
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.run_identity import FORMER_VALUES

EVALUATION_BATCH = 256
LABEL_SMOOTHING = 0.1
FLIPS = ("auto", "on", "off")
"""Whether training images are mirrored at random. "auto": all but those of `digits`."""


class Classification:
    """The classification of the images of one data set.

    Attributes:
        data: The data set.
        metric: What ranks networks: a key of `METRICS`.
        class_weights: How the training loss weighs the classes: a key of `CLASS_WEIGHTS`.
        fit: How images that are not square become square: a key of `FITS`.
        flip: Whether training images are mirrored: one of `FLIPS`.
    """

    def __init__(
        self,
        data: ImageData,
        metric: str = "accuracy",
        class_weights: str = "none",
        fit: str = DEFAULT_FIT,
        flip: str = "auto",
    ):
        self.data, self.metric, self.class_weights, self.fit, self.flip = data, metric, class_weights, fit, flip

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
        return cls(data, metric, class_weights, choose_fit(fit, data), flip)

    def report_data(self, reporter: Reporter) -> None:
        """Report the images per class, the files that are not used, the fit, and classes that have few images."""
        for line in (describe_classes(self.data), *self.data.notes, *describe_fit(self.fit, self.data)):
            reporter.say(line)
        report_balance(self.data, self.metric, reporter)

    @property
    def settings(self) -> dict[str, str]:
        """The settings that differ from their defaults, by name. The defaults are left out: older runs lack them."""
        settings = {"metric": self.metric, "class_weights": self.class_weights, "fit": self.fit, "flip": self.flip}
        return {key: value for key, value in settings.items() if value != FORMER_VALUES[key]}

    @property
    def fit_setting(self) -> dict[str, str]:
        """The fit alone, if it differs from its default."""
        return {key: value for key, value in self.settings.items() if key == "fit"}

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored at random."""
        return self.data.flip if self.flip == "auto" else self.flip == "on"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.data.classes)

    def check_part(self, images: int, key: str) -> None:
        """Raise UsageError for the setting `key` if a part of `images` training images cannot hold all classes."""
        if 0 < images < self.num_classes:
            rule = f"must be at least the number of classes, {self.num_classes}, or 0"
            raise UsageError(rule, key=key, value=images)

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> ImageDataset:
        """Return the augmented training images.

        Args:
            resolution: The image size in pixels.
            images: The size of a stratified part; 0: all images.
            reporter: Shows the progress of decoding.
        """
        augment = augmentation(resolution, self.flips)
        return ImageDataset(self.data.train.part(images), resolution, augment, reporter, self.fit)

    def validation_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> ImageDataset:
        """Return the validation images, which rank candidates. Arguments as for `train_set`."""
        return ImageDataset(self.data.validation.part(images), resolution, None, reporter, self.fit)

    def test_set(self, resolution: int, reporter: Reporter | None = None) -> ImageDataset:
        """Return the test images, which are used only once, at the end."""
        return ImageDataset(self.data.test, resolution, None, reporter, self.fit)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the float32 logits (B, num_classes) of images (B, 3, H, W) with values from 0 to 255."""
        logits: Tensor = model(normalize(images))
        return logits.float()

    def loss_weights(self, images: ImageDataset) -> Tensor | None:
        """Return the weights (num_classes,) of the classes of training images; None without weights."""
        weights = CLASS_WEIGHTS[self.class_weights](images.labels, self.num_classes)
        return None if weights is None else torch.tensor(weights)

    def criterion(
        self,
        logits: Tensor,
        labels: Tensor,
        label_smoothing: float = LABEL_SMOOTHING,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of logits (B, num_classes).

        Args:
            logits: The outputs of the network.
            labels: Classes (B,), or class shares (B, num_classes).
            label_smoothing: The share of each label that is spread over all classes.
            weights: The weights (num_classes,) of the classes; None: all count the same.
        """
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return weighted_cross_entropy(logits, labels, label_smoothing, weights)

    def distillation(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Return the mean divergence of softened outputs from a teacher's (Hinton et al. 2015, section 2).

        Both logits are (B, num_classes). The factor temperature^2 keeps the gradients at the same scale.
        """
        student, teacher = (F.log_softmax(each / temperature, 1) for each in (logits, teacher_logits))
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of uint8 images (B, 3, H, W) with labels (B,)."""
        return self.criterion(self.logits(model, images), labels)

    def accuracy(self, model: nn.Module, images: ImageDataset, device: torch.device) -> float:
        """Return the share, in [0, 1], of correctly classified images. Leaves the model in eval mode."""
        return accuracy_of(self.confusion(model, images, device))

    def report(self, model: nn.Module, images: ImageDataset, device: torch.device) -> ClassReport:
        """Return the metric, the accuracy and the results by class. Leaves the model in eval mode."""
        pairs = self.class_pairs(model, images, device)
        return ClassReport(self.metric, self.data.classes, self._counts(pairs), pairs)

    def confusion(self, model: nn.Module, images: ImageDataset, device: torch.device) -> Tensor:
        """Return the number (C, C) of images by true and by predicted class. Leaves the model in eval mode."""
        return self._counts(self.class_pairs(model, images, device))

    def _counts(self, pairs: Tensor) -> Tensor:
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

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
