"""The plot of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.utils.files import write_picture

if TYPE_CHECKING:
    from torch import Tensor

DRAWN_CLASSES = 30
"""The confusion matrix shows at most this many classes."""
WRITTEN_CLASSES = 15
"""With more classes, the counts are only drawn as colors."""


def draw_confusion(confusion: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Draw the confusion matrix of a test to a PNG file: the share of each true class by predicted class.

    Of many classes, only the 30 with the lowest recall are drawn. The last column then counts the predictions of all
    other classes.

    Args:
        confusion: The confusion matrix (C, C) of counts: true classes in rows, predicted ones in columns.
        classes: The names of the classes.
        title: The title.
        path: The PNG file.
    """
    import numpy as np
    from matplotlib.figure import Figure

    counts, names = confusion.numpy(), list(classes)
    columns = names
    if len(names) > DRAWN_CLASSES:
        shown = np.argsort(_recalls(counts), kind="stable")[:DRAWN_CLASSES]
        title += f"\nthe {DRAWN_CLASSES} of {len(names)} classes with the lowest recall"
        others = counts[shown].sum(1) - counts[np.ix_(shown, shown)].sum(1)
        counts = np.column_stack([counts[np.ix_(shown, shown)], others])
        names = [names[index] for index in shown]
        columns = [*names, "all others"]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3.5 + 0.25 * len(names)
    figure = Figure(figsize=(side + 1, side), dpi=130, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the true class, %")
    plain: dict[str, Any] = {"fontsize": 7, "parse_math": False}  # "$" in the name of a class is no formula
    axes.set_xticks(range(len(columns)), [name[:20] for name in columns], rotation=90, **plain)
    axes.set_yticks(range(len(names)), [name[:20] for name in names], **plain)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=9, parse_math=False)
    if len(names) <= WRITTEN_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    write_picture(path, figure)


def _recalls(counts: Any) -> Any:
    """Return the recall of each class of a confusion matrix (C, C); 1 for classes without images."""
    import numpy as np

    supports = counts.sum(1)
    return np.where(supports > 0, counts.diagonal() / np.maximum(supports, 1), 1.0)
