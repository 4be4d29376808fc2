"""The plot of a training: loss and metric per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas.training.state import Epoch
from nas.training.tasks.metrics import spell
from nas.utils.files import write_picture


def draw_training(curve: Sequence[Epoch], title: str, path: Path, metric: str = "accuracy") -> None:
    """Draw the mean loss and the metric on the validation images of every epoch to a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), dpi=130, layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    epochs = [epoch.number + 1 for epoch in curve]
    marker = "." if len(curve) < 60 else ""
    left.plot(epochs, [epoch.loss for epoch in curve], color="tab:orange", marker=marker)
    right.plot(epochs, [100 * epoch.value for epoch in curve], color="tab:blue", marker=marker)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="tab:orange")
    right.set_ylabel(f"validation {spell(metric)}, %", color="tab:blue")
    left.set_title(title, fontsize=9, parse_math=False)
    write_picture(path, figure)
