"""Pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas.final import Finalist
from nas.objective import front
from nas.study import Trial


def draw_search(trials: Sequence[Trial], finalists: Sequence[Finalist], target_ms: float, path: Path) -> None:
    """Draw accuracy over latency of every trial, their front, the finalists and the target, as a PNG.

    Finalists stand where they were measured, or where they are predicted if the device is not here, at the accuracy
    that is estimated of them. Trials that were stopped are hollow, at what they had reached; none is on the front.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=130, layout="constrained")
    axes = figure.subplots()
    points = [trial.metrics for trial in trials if trial.stopped_at is None]
    stopped = [trial.metrics for trial in trials if trial.stopped_at is not None]
    kept = [points[index] for index in front(points)]
    axes.axvline(target_ms, color="0.5", linestyle="--", linewidth=1, label=f"target {target_ms:g} ms")
    axes.plot(
        [point.latency_ms for point in kept], [100 * point.accuracy for point in kept],
        drawstyle="steps-post", color="tab:blue", linewidth=1, alpha=0.6, label="front, predicted",
    )  # fmt: skip
    scatter = axes.scatter(
        [point.latency_ms for point in points], [100 * point.accuracy for point in points],
        c=[trial.number for trial in trials if trial.stopped_at is None], cmap="viridis", s=22, zorder=3,
    )  # fmt: skip
    figure.colorbar(scatter, label="trial")
    if stopped:
        axes.scatter(
            [point.latency_ms for point in stopped], [100 * point.accuracy for point in stopped],
            facecolors="none", edgecolors="0.6", s=18, zorder=2, label="stopped",
        )  # fmt: skip
    for index, finalist in enumerate(finalists):
        kind = "predicted" if finalist.measured is None else "measured"
        axes.plot(
            finalist.latency_ms, 100 * finalist.estimate,
            marker="*" if index == 0 else "x", color="tab:red", markersize=14 if index == 0 else 7, linestyle="none",
            zorder=4, label=f"winner, {kind}" if index == 0 else (f"finalists, {kind}" if index == 1 else None),
        )  # fmt: skip
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("validation accuracy of the proxy, %")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)
