"""The trainings that a space describes: of its candidates, of its winner and of its supernet."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BRANCHES = 8
"""The largest number of branches of a convolution in training."""


@dataclass(frozen=True)
class Proxy:
    """The short training that ranks candidates.

    Attributes:
        resolution: Input resolution in pixels.
        epochs: Training epochs.
        images: Training images; 0: all of them.
        of: Set if candidates differ in resolution: each then trains at the share `resolution / of` of its own.
            0: all train at `resolution`.
    """

    resolution: int = 32
    epochs: int = 3
    images: int = 0
    of: int = 0

    @property
    def images_seen(self) -> int:
        """The training images that a training sees, counted each time; 0 if `images` means all of them."""
        return self.epochs * self.images

    def at(self, resolution: int) -> int:
        """Return the training resolution, in pixels, of a network for inputs of `resolution` pixels."""
        return max(1, round(resolution * self.resolution / self.of)) if self.of else self.resolution


@dataclass(frozen=True)
class FinalTraining:
    """The winner's training.

    Attributes:
        epochs: Epochs at the proxy's resolution.
        images: Training images of the one epoch at the deployed resolution.
        full_epochs: Epochs of a full training: all images, with the recipe of `nas train`, at the deployed resolution.
            0: the phases that `epochs` and `images` describe.
        branches: The k x k branches of each convolution while it trains, see `nas.training.branches`; 0: none.
    """

    epochs: int = 8
    images: int = 500
    full_epochs: int = 0
    branches: int = 0


@dataclass(frozen=True)
class SupernetTraining:
    """The training of a supernet's shared weights, on the proxy's images. See `nas.evaluators.supernet.training`.

    Attributes:
        epochs: Training epochs.
        batch_size: Images per step.
        children: Random subnets per step.
        sandwich: Whether each step also trains the largest and the smallest subnet.
        distill: Whether the other subnets learn from the largest one.
        warmup_epochs: Epochs in which random subnets prefer the largest choices.
    """

    epochs: int = 30
    batch_size: int = 32
    children: int = 1
    sandwich: bool = False
    distill: bool = False
    warmup_epochs: int = 0
