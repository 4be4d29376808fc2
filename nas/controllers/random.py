"""Uniform sampling: the baseline that every controller must beat."""

from __future__ import annotations

import random

from nas.architecture import Scalar
from nas.space import Choices, Space


class RandomController:
    """Draws each active choice uniformly."""

    def __init__(self, space: Space, directions: tuple[str, ...]):
        self._space = space

    def ask(self, seed: int) -> dict[str, Scalar]:
        """Return a random candidate of this seed."""
        return self._space.sample(random.Random(seed))

    def tell(self, choices: Choices, values: tuple[float, ...]) -> None:
        """Learn nothing."""
