"""Image classification: cross-entropy with label smoothing, and the share of images that are classified right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.training.tasks.image_datasets import ImageData, ImageDataset, Split, augmentation, load_images, normalize

EVALUATION_BATCH = 256
LABEL_SMOOTHING = 0.1


class Classification:
    """A data set to learn to classify."""

    def __init__(self, data: ImageData):
        self.data = data

    @classmethod
    def load(cls, name: str, root: str | None = None) -> Classification:
        """Return the task on a named data set or an image folder. Raises DataError."""
        return cls(load_images(name, root))

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.data.classes)

    def train_set(self, resolution: int, images: int = 0) -> ImageDataset:
        """Return the training images, augmented; a stratified part of `images` where that is above 0."""
        return ImageDataset(_part(self.data.train, images), resolution, augmentation(resolution, self.data.flip))

    def validation_set(self, resolution: int, images: int = 0) -> ImageDataset:
        """Return the held-out images that rank candidates, or a stratified part of them."""
        return ImageDataset(_part(self.data.validation, images), resolution)

    def test_set(self, resolution: int) -> ImageDataset:
        """Return the images that are touched once, at the end."""
        return ImageDataset(self.data.test, resolution)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return what the model says of images (B, 3, H, W) from 0 to 255: float32 (B, num_classes)."""
        found: Tensor = model(normalize(images))
        return found.float()

    def criterion(self, logits: Tensor, labels: Tensor, label_smoothing: float = LABEL_SMOOTHING) -> Tensor:
        """Return the mean loss of logits (B, num_classes); labels are classes (B,) or their shares (B, num_classes)."""
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def distillation(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the mean divergence of the softened outputs from a teacher's (Hinton et al. 2015, section 2).

        Both are (B, num_classes). The square of the temperature keeps the size of the gradients.
        """
        student, teacher = (F.log_softmax(each / temperature, 1) for each in (logits, taught))
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of uint8 (B, 3, H, W) and labels (B,)."""
        return self.criterion(self.logits(model, images), labels)

    @torch.no_grad()
    def accuracy(self, model: nn.Module, images: ImageDataset, device: torch.device) -> float:
        """Return the share of `images` whose class has the highest logit, in [0, 1]; the model is left in eval mode."""
        model.eval()
        right = torch.zeros((), dtype=torch.long, device=device)
        for batch, labels in DataLoader(
            images, EVALUATION_BATCH, generator=torch.Generator(), num_workers=images.workers
        ):
            logits = model(normalize(batch.to(device)).contiguous(memory_format=torch.channels_last))
            right += (logits.argmax(1) == labels.to(device)).sum()
        return right.item() / len(images)


def _part(split: Split, images: int) -> Split:
    if not images or images >= len(split):
        return split
    from nas.training.tasks.image_datasets import stratified

    _, part = stratified(split.labels, images)
    return split.take(part)
