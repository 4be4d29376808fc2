"""The picture of a pilot: reliability and accuracies against the images that an evaluation sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.utils.files import write_picture


def draw_pilot(certificate: Mapping[str, Any], path: Path, metric: str) -> None:
    """Draw the levels of a pilot's certificate as PNG.

    Args:
        certificate: The certificate as `result.json` holds it.
        path: The file.
        metric: The metric of the accuracies, in words.
    """
    from matplotlib.figure import Figure

    levels = [level for level in certificate["levels"] if level["reliability"] is not None]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    images = [level["budget"]["images_seen"] for level in levels]
    values = [level["reliability"] for level in levels]
    below = [level["reliability"] - level["low"] for level in levels]
    above = [level["high"] - level["reliability"] for level in levels]
    upper.errorbar(images, values, [below, above], fmt="o-", capsize=4, label="reliability, 95 % interval")
    upper.axhline(certificate["wanted"], linestyle="--", color="gray", label=f"wanted: {certificate['wanted']:g}")
    upper.axvline(certificate["budget"]["images_seen"], linestyle=":", color="tab:green", label="chosen")
    upper.set(ylabel="reliability", ylim=(-0.03, 1.03), title="How well evaluations tell networks apart")
    upper.legend(fontsize="small", loc="best")
    lower.vlines(
        images, [100 * level["lowest"] for level in levels], [100 * level["highest"] for level in levels], lw=6
    )
    lower.axhline(100 * certificate["chance"], linestyle="--", color="gray", label="chance")
    lower.set(xlabel="training images that an evaluation sees", ylabel=f"{metric} of the networks in %", xscale="log")
    lower.set_xticks(images, [f"{count:,}" for count in images], minor=False)
    lower.minorticks_off()
    lower.legend(fontsize="small")
    write_picture(path, figure)
