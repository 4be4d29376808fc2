"""The total time of a search: as given, as a run folder stores it, or one that suits the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.errors import UsageError
from nas.searching.settings import SearchSettings

BY_HAND = (
    "trials", "proxy_resolution", "proxy_epochs", "proxy_images", "final_epochs", "final_images", "evaluator",
    "fidelity", "train_finalists",
)  # fmt: skip
"""Settings that divide the time by hand. Without --budget, any of them switches the plan off."""
DURATIONS_S = tuple(60 * minutes for minutes in (10, 15, 20, 30, 45, 60, 90, 120))
"""The default budgets to choose from."""
IMAGES_PER_S = 400
"""Training images per second at 64 px on two cores, for the choice of a default."""
PASSES = 40
"""The default has time for this many passes over the training images in a third of it."""


def choose_budget(settings: SearchSettings, stored: Mapping[str, Any] | None, images: int, side: float) -> float | None:
    """Return the total time of a search in seconds; None if its parts are set by hand.

    Args:
        settings: The settings of the search.
        stored: The settings of the run that continues; None for a new run.
        images: The number of training images.
        side: The side in pixels of the largest deployed input, if it is a square; see `InputFormat.side`.

    Raises:
        UsageError: The budget is given, but the evaluator or early stopping does not go with it.
    """
    given = settings.total_s
    if given is not None:
        if settings.evaluator != SearchSettings.evaluator:
            rule = f"is for the evaluator '{SearchSettings.evaluator}', not for '{settings.evaluator}'"
            raise UsageError(rule, key="budget", value=settings.budget)
        if settings.fidelity != SearchSettings.fidelity:
            raise UsageError("is for --fidelity full", key="budget", value=settings.budget)
        return given
    if stored is not None:
        return stored.get("budget_s")
    if any(getattr(settings, key) != getattr(SearchSettings, key) for key in BY_HAND):
        return None
    return default_budget(images, side)


def default_budget(images: int, side: float) -> float:
    """Return a total time in seconds that suits the data: enough for a third of it to train a network well.

    It depends on nothing measured, so that the same command is the same run on every machine.

    Args:
        images: The number of training images.
        side: The side in pixels of the largest deployed input, if it is a square; see `InputFormat.side`.
    """
    wanted = 3 * PASSES * images * (side / 64) ** 2 / IMAGES_PER_S
    return float(next((duration for duration in DURATIONS_S if duration >= wanted), DURATIONS_S[-1]))
