"""The result of a test of a detector: the COCO metric, by class and by size of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.training.detection.average_precision import (
    OVERLAP,
    RECALL_POINTS,
    SIZES,
    SURE_SCORE,
    Found,
    Precision,
    Truth,
    average_precision,
)
from nas.training.detection.detection_pictures import draw_detections
from nas.training.tasks.class_report import FAR_BELOW, FEW_IMAGES, list_some
from nas.utils.files import write_picture
from nas.utils.reporting import Reporter

DETECTIONS = "detections.png"
METRICS = {"AP": "ap", "AP50": "ap50"}
"""The metrics of a report, and the fields of `Precision` that hold them."""
MOSTLY = 0.5
"""A size is mostly missed if less than this share of its boxes is found."""
FEW_BOXES = FEW_IMAGES
"""With fewer boxes, the results of a class or a size are uncertain."""
DRAWN_CLASSES = 10
"""The plot shows the curves of at most this many classes."""
RANGES = {
    "small": "less than 32 x 32 pixels",
    "medium": "32 x 32 to 96 x 96 pixels",
    "large": "96 x 96 pixels and more",
}
"""The sizes in words."""
SHORT_RANGES = {"small": "below 32 x 32", "medium": "in between", "large": "from 96 x 96"}
"""The sizes in pixels, as a narrow plot can show them."""


@dataclass(frozen=True)
class BoxReport:
    """What a test of a detector has shown.

    Attributes:
        metric: "AP" or "AP50".
        precision: The COCO metric.
        examples: The images, their truths and their detections, of which some are drawn; None: none are.
    """

    picture = "precision_recall.png"

    metric: str
    precision: Precision
    examples: tuple[Sequence[Any], Sequence[Truth], Sequence[Found]] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def accuracy(self) -> None:
        """None: a detector has no share of correctly classified images."""
        return None

    @property
    def metric_value(self) -> float:
        """The metric, in [0, 1]."""
        value: float = getattr(self.precision, METRICS[self.metric])
        return value

    def of_groups(self, groups: int) -> list[float | None] | None:
        """Return the metric of so many disjoint groups of the images; None if the detections are not known.

        A group without a box has no metric: None.
        """
        if self.examples is None:
            return None
        _, truth, found = self.examples
        classes, values = tuple(self.precision.by_class), list[float | None]()
        for first in range(groups):
            part = truth[first::groups], found[first::groups]
            has_boxes = any(not all(each.crowd) for each in part[0])
            precision = average_precision(*part, classes) if has_boxes else None
            values.append(None if precision is None else getattr(precision, METRICS[self.metric]))
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the report as results hold it. Values are in [0, 1]; those without ground truth are None."""
        precision = self.precision
        return {
            "metric": self.metric,
            "test_AP": precision.ap,
            "test_AP50": precision.ap50,
            "test_AP75": precision.ap75,
            "test_AP_small": precision.ap_small,
            "test_AP_medium": precision.ap_medium,
            "test_AP_large": precision.ap_large,
            "test_AR100": precision.ar100,
            "test_images": precision.images,
            "by_class": {
                name: {"AP": value, "AP50": precision.by_class_50[name], "boxes": precision.boxes_by_class[name]}
                for name, value in precision.by_class.items()
            },
            "by_size": {
                size: {"boxes": precision.boxes_by_size[size], "found": precision.found_by_size[size]} for size in SIZES
            },
        }

    def warn(self, reporter: Reporter) -> None:
        """Warn of classes whose AP is far below the mean, and of sizes of which most boxes are missed."""
        if worst := self._worst_classes():
            reporter.warn(f"the AP of {self.precision.ap:.1%} hides classes that are hardly detected: {worst}")
        if missed := self._missed_sizes():
            reporter.warn(f"most boxes of these sizes are missed: {missed}")

    def draw(self, title: str, path: Path) -> None:
        """Draw the curves of precision over recall, and the share of found boxes by size, to a PNG file.

        Some images with truth and detections are drawn to detections.png beside it.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 4.4), dpi=130, layout="constrained")
        figure.suptitle(title, fontsize=10, parse_math=False)
        curves, sizes = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curves(curves, self.precision)
        _draw_sizes(sizes, self.precision)
        write_picture(path, figure)
        if self.examples is not None:
            classes = tuple(self.precision.by_class)
            draw_detections(*self.examples, classes, path.with_name(DETECTIONS), title)

    def _worst_classes(self) -> str:
        """Return the classes with less than half of the AP: "'rare' (3.1%, 12 boxes)"; "" if there are none."""
        precision = self.precision
        worst = sorted(
            (value, name)
            for name, value in precision.by_class.items()
            if value is not None and value < FAR_BELOW * precision.ap and precision.boxes_by_class[name] >= FEW_BOXES
        )
        return list_some([f"'{name}' ({value:.1%}, {precision.boxes_by_class[name]} boxes)" for value, name in worst])

    def _missed_sizes(self) -> str:
        """Return the sizes of which most boxes are missed: "small (12 of 80 found, ...)"; "" if there are none."""
        precision = self.precision
        counts = [(size, precision.found_by_size[size], precision.boxes_by_size[size]) for size in SIZES]
        return ", ".join(
            f"{size} ({found} of {boxes} found, {RANGES[size]})"
            for size, found, boxes in counts
            if boxes >= FEW_BOXES and found < MOSTLY * boxes
        )


def _draw_curves(axes: Any, precision: Precision) -> None:
    """Draw precision over recall: the mean in black, and the classes with the lowest values in colors."""
    names = sorted(precision.class_curves, key=lambda name: precision.by_class_50[name] or 0.0)
    shown = names[:DRAWN_CLASSES] if len(names) > 1 else []
    mean = f"mean of {len(names)} classes" if shown else names[0][:20]
    label = f"{mean} ({precision.ap50:.1%})"
    axes.plot(100 * RECALL_POINTS, 100 * precision.curve, "k", linewidth=2.2, zorder=3, label=label)
    for name in shown:
        label = f"{name[:20]} ({precision.by_class_50[name]:.1%})"
        axes.plot(100 * RECALL_POINTS, 100 * precision.class_curves[name], linewidth=1, label=label)
    axes.set(xlim=(0, 100), ylim=(0, 102), xlabel="recall, %", ylabel="precision, %")
    axes.grid(alpha=0.3)
    which = f": mean and the {len(shown)} lowest classes" if len(shown) < len(names) and shown else ""
    axes.set_title(f"AP50, at an IoU of 0.5{which}", fontsize=9)
    legend = axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # "$" in the name of a class is no formula


def _draw_sizes(axes: Any, precision: Precision) -> None:
    """Draw the share of found boxes by size, with the counts."""
    for place, size in enumerate(SIZES):
        found, boxes = precision.found_by_size[size], precision.boxes_by_size[size]
        share = 100 * found / max(boxes, 1)
        axes.bar(place, 100 if boxes else 0, color="0.92", width=0.7)
        axes.bar(place, share, color="tab:blue", width=0.7)
        text = f"{found:,} of {boxes:,}\n{share:.0f}%" if boxes else "no boxes"
        axes.text(place, share + 1, text, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(SIZES)), [f"{size}\n{SHORT_RANGES[size]}" for size in SIZES], fontsize=8)
    axes.set_yticks(range(0, 101, 20))
    axes.set(xlim=(-0.5, 2.5), ylim=(0, 114), xlabel="size of the boxes, pixels", ylabel="found boxes, %")
    axes.set_title(f"found at an IoU of {OVERLAP} and a score of {SURE_SCORE}", fontsize=9)
