"""Image classification: the data sets, cross-entropy with label smoothing, and the accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.networks.preprocessing import normalize
from nas.training.tasks.fit import AUTO, DEFAULT_FIT, choose_fit, describe_fit
from nas.training.tasks.image_datasets import ImageDataset, augmentation, load_images
from nas.training.tasks.splits import ImageData, describe_classes
from nas.utils.reporting import Reporter

EVALUATION_BATCH = 256
LABEL_SMOOTHING = 0.1


class Classification:
    """The classification of the images of one data set.

    Args:
        data: The data set.
        fit: How images that are not square become square: a key of `FITS`.
    """

    def __init__(self, data: ImageData, fit: str = DEFAULT_FIT):
        self.data, self.fit = data, fit

    @classmethod
    def load(cls, name: str, root: str | None = None, fit: str = AUTO) -> Classification:
        """Return the task on a named data set or an image folder.

        Args:
            name: The name or the path.
            root: The folder of the named data sets; None: the user's cache.
            fit: A key of `FITS`, or "auto", which depends on the images.

        Raises:
            DataError: The data set is unknown or invalid.
            UsageError: The fit is unknown.
        """
        data = load_images(name, root)
        return cls(data, choose_fit(fit, data))

    def report(self, reporter: Reporter) -> None:
        """Report the number of images per class, the files that are not used, and the fit."""
        for line in (describe_classes(self.data), *self.data.notes, *describe_fit(self.fit, self.data)):
            reporter.say(line)

    @property
    def fit_setting(self) -> dict[str, str]:
        """The fit as a part of a run's identity. The default is left out, because older runs lack it."""
        return {} if self.fit == DEFAULT_FIT else {"fit": self.fit}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.data.classes)

    def train_set(self, resolution: int, images: int = 0, reporter: Reporter | None = None) -> ImageDataset:
        """Return the augmented training images.

        Args:
            resolution: The image size in pixels.
            images: The size of a stratified part; 0: all images.
            reporter: Shows the progress of decoding.
        """
        augment = augmentation(resolution, self.data.flip)
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

    def criterion(self, logits: Tensor, labels: Tensor, label_smoothing: float = LABEL_SMOOTHING) -> Tensor:
        """Return the mean loss of logits (B, num_classes). Labels are classes (B,) or class shares (B, num_classes)."""
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def distillation(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Return the mean divergence of softened outputs from a teacher's (Hinton et al. 2015, section 2).

        Both logits are (B, num_classes). The factor temperature^2 keeps the gradients at the same scale.
        """
        student, teacher = (F.log_softmax(each / temperature, 1) for each in (logits, teacher_logits))
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of uint8 images (B, 3, H, W) with labels (B,)."""
        return self.criterion(self.logits(model, images), labels)

    @torch.no_grad()
    def accuracy(self, model: nn.Module, images: ImageDataset, device: torch.device) -> float:
        """Return the share, in [0, 1], of correctly classified images. Leaves the model in eval mode."""
        model.eval()
        correct = torch.zeros((), dtype=torch.long, device=device)
        for batch, labels in DataLoader(
            images, EVALUATION_BATCH, generator=torch.Generator(), num_workers=images.workers
        ):
            logits = model(normalize(batch.to(device)).contiguous(memory_format=torch.channels_last))
            correct += (logits.argmax(1) == labels.to(device)).sum()
        return correct.item() / len(images)
