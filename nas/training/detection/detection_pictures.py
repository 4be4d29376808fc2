"""A picture of test images with their boxes and the detections of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.training.detection.average_precision import SURE_SCORE, Found, Truth
from nas.training.tasks.image_files import read_image
from nas.utils.files import write_picture

TRUTH_COLOR, FOUND_COLOR = "#00e5ff", "#ff7f0e"
"""Cyan and orange: both stand out on photographs, and color-blind people can tell them apart."""
MOST_LABELS = 12
"""In an image with more detections, only so many with the highest scores have a label."""


def draw_detections(
    images: Sequence[Any],
    truths: Sequence[Truth],
    founds: Sequence[Found],
    classes: tuple[str, ...],
    path: Path,
    title: str,
    most: int = 9,
) -> None:
    """Draw a grid of images to a PNG file, with the ground truth dashed and the detections with class and score.

    Detections with a score of less than 0.3 are left out. Of more than `most` images, evenly spaced ones are drawn.

    Args:
        images: Paths of image files, or uint8 arrays (H, W) or (H, W, 3). They may have been scaled.
        truths: The ground truth of each image, in pixels of the original image.
        founds: The detections in each image, in pixels of the original image.
        classes: The names of the classes.
        path: The PNG file.
        title: The title.
        most: The number of images to draw.

    Raises:
        DataError: An image cannot be read.
        OSError: The PNG file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int))
    columns = max(math.ceil(math.sqrt(len(shown))), 1)
    rows = max(math.ceil(len(shown) / columns), 1)
    tallest = max((truths[index].height / truths[index].width for index in shown), default=1.0)
    row_height = 3.4 * min(max(tallest, 0.5), 1.5)
    figure = Figure(figsize=(0.4 + 3.4 * columns, 0.8 + row_height * rows), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, shown, strict=False):
        _draw_image(axes, images[index], truths[index], founds[index], classes)
    handles = [_outline([0, 0, 1, 1], "--", TRUTH_COLOR), _outline([0, 0, 1, 1], "-", FOUND_COLOR)]
    labels = ["ground truth", f"detection, score of at least {SURE_SCORE}"]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    write_picture(path, figure)


def _draw_image(axes: Any, image: Any, truth: Truth, found: Found, classes: tuple[str, ...]) -> None:
    """Draw one image, stretched to its original size, with its boxes. The outlines of crowd regions are dotted."""
    pixels = read_image(image).permute(1, 2, 0).numpy()
    axes.imshow(pixels, extent=(0, truth.width, truth.height, 0))
    axes.set(xlim=(0, truth.width), ylim=(truth.height, 0))
    scores, corners = np.asarray(found.scores, np.float64), np.asarray(found.corners, np.float64).reshape(-1, 4)
    is_shown = (scores >= SURE_SCORE) & np.isfinite(corners).all(1)
    sure = [index for index in np.argsort(-scores, kind="stable") if is_shown[index]]
    for index in sure:
        axes.add_patch(_outline(corners[index], "-", FOUND_COLOR))
    for box, is_crowd in zip(np.asarray(truth.corners, np.float64).reshape(-1, 4), truth.crowd, strict=True):
        axes.add_patch(_outline(box, ":" if is_crowd else "--", TRUTH_COLOR))
    for index in reversed(sure[:MOST_LABELS]):  # the highest score is drawn last, over the others
        name = classes[int(found.classes[index])]
        _write_label(axes, corners[index], f"{name[:14]} {scores[index]:.2f}", (truth.width, truth.height))


def _outline(corners: Any, style: str, color: str) -> Any:
    """Return the outline of a box. A thin dark edge makes it visible on bright images."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = (float(corner) for corner in corners)
    edge = [withStroke(linewidth=2.4, foreground="black", alpha=0.6)]
    return Rectangle(
        (left, top),
        right - left,
        bottom - top,
        fill=False,
        linestyle=style,
        linewidth=1.3,
        edgecolor=color,
        path_effects=edge,
    )


def _write_label(axes: Any, corners: Any, text: str, size: tuple[int, int]) -> None:
    """Write the label of a detection above its box; at the top of the image, inside it.

    Args:
        axes: The axes of the image.
        corners: The box: x1, y1, x2, y2.
        text: The label.
        size: Width and height of the image.
    """
    width, height = size
    left, top, right = max(corners[0], 0), max(corners[1], 0), min(corners[2], width)
    is_right = left > 0.6 * width  # a label to the right of the left edge would leave the image
    axes.text(
        right if is_right else left,
        top,
        text,
        ha="right" if is_right else "left",
        va="bottom" if top > 0.08 * height else "top",
        fontsize=6,
        clip_on=True,
        parse_math=False,
        bbox={"facecolor": FOUND_COLOR, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )
