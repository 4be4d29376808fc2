"""The plot of a rank check: agreement between the seeds of the reference, and between evaluators and reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.training.tasks.metrics import spell
from nas.utils.files import write_picture


def draw_agreement(
    accuracies: Sequence[Sequence[float]],
    ceiling: Mapping[str, Any] | None,
    judged: Sequence[tuple[str, Mapping[str, Any]]],
    path: Path,
    metric: str = "accuracy",
) -> None:
    """Draw a PNG. Left: accuracies of the second seed over those of the first. Right: Kendall's tau per evaluator.

    Args:
        accuracies: The reference accuracies, one row for each network and one column for each seed.
        ceiling: The agreement between seeds (`Agreement.to_dict`), or None with a single seed.
        judged: The name and the agreement of each evaluator.
        path: The file to write.
        metric: The metric of the reference.
    """
    from matplotlib.figure import Figure

    ordered = sorted(judged, key=lambda item: item[1]["kendall"])
    figure = Figure(figsize=(10, 1.6 + 0.32 * max(8, len(ordered))), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    _draw_repeats(left, accuracies, spell(metric))
    taus = [item["kendall"] for _, item in ordered]
    spread = [
        [max(0.0, tau - item["kendall_interval"][0]) for tau, (_, item) in zip(taus, ordered, strict=True)],
        [max(0.0, item["kendall_interval"][1] - tau) for tau, (_, item) in zip(taus, ordered, strict=True)],
    ]
    right.barh(range(len(ordered)), taus, xerr=spread, color="tab:blue", alpha=0.75, ecolor="0.3", capsize=2)
    right.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    right.axvline(0, color="0.3", linewidth=0.8)
    if ceiling is not None:
        low, high = ceiling["kendall_interval"]
        right.axvspan(low, high, color="tab:green", alpha=0.12)
        right.axvline(ceiling["kendall"], color="tab:green", label=f"agreement between seeds: {ceiling['kendall']:.2f}")
        right.legend(loc="lower right", fontsize=8)
    right.set_xlabel("Kendall's tau against the reference, with 95 % intervals")
    write_picture(path, figure)


def _draw_repeats(axes: Any, accuracies: Sequence[Sequence[float]], metric: str) -> None:
    first = [100 * values[0] for values in accuracies]
    if len(accuracies[0]) > 1:
        axes.scatter(first, [100 * values[1] for values in accuracies], s=18)
        axes.axline((min(first), min(first)), slope=1, color="0.6", linewidth=0.8)
        axes.set_ylabel(f"{metric} with the second seed, %")
    else:
        axes.hist(first)
        axes.set_ylabel("networks")
    axes.set_xlabel(f"{metric} of the reference, first seed, %")
