"""The controllers: what to try next. To add one: write a file, add a line here.

A controller keeps no random state and no store. What it asks is a function of the seed it is given and of what it
was told, so a search that was killed goes on exactly where it stopped.
"""

from __future__ import annotations

from typing import Protocol

from nas.architecture import Scalar
from nas.controllers.random import RandomController
from nas.controllers.tpe import TPEController
from nas.space import Choices, Space


class Controller(Protocol):
    """What a controller file provides; it is made with `Controller(space, directions)`."""

    def __init__(self, space: Space, directions: tuple[str, ...]):
        """Begin with nothing told; `directions` are "maximize" or "minimize", one for each value."""

    def ask(self, seed: int) -> dict[str, Scalar]:
        """Return the active choices of a candidate."""

    def tell(self, choices: Choices, values: tuple[float, ...]) -> None:
        """Take in the values of a finished candidate."""


CONTROLLERS: dict[str, type[Controller]] = {
    "tpe": TPEController,
    "random": RandomController,
}
