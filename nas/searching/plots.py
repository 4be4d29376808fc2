"""Pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.searching.winner_training import Finalist
from nas.study.objectives import Goal, Metrics, Objective
from nas.study.ranking import front
from nas.study.study import Trial


def draw_search(
    trials: Sequence[Trial],
    finalists: Sequence[Finalist],
    objective: Objective,
    goal: Goal,
    path: Path,
    progress: Sequence[float] = (),
) -> None:
    """Draw a goal's accuracy over latency of every trial, their front, the finalists and the target, as a PNG.

    Finalists stand where they were measured, or where they are predicted if the device is not here, at the accuracy
    that is estimated of them. Trials that were stopped are hollow, at what they had reached; none is on the front.
    Below it, the hypervolume after each trial where `progress` gives it, else the goal's best score.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=130, layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1))
    seen = [trial for trial in trials if trial.stopped_at is None]
    points = [trial.metrics.on(goal.device) for trial in seen]
    stopped = [trial.metrics.on(goal.device) for trial in trials if trial.stopped_at is not None]
    axes.axvline(goal.target_ms, color="0.5", linestyle="--", linewidth=1, label=f"target {goal.target_ms:g} ms")
    kept = [points[index] for index in front(points)]
    axes.plot(
        [point.latency_ms for point in kept], [100 * point.accuracy for point in kept],
        drawstyle="steps-post", color="tab:blue", linewidth=1, alpha=0.6, label="front, predicted",
    )  # fmt: skip
    if len(objective.directions) > 2:  # more axes than are drawn: what they keep need not lie on the line
        kept = [points[index] for index in front([trial.metrics for trial in seen], objective.axes)]
        axes.plot(
            [point.latency_ms for point in kept], [100 * point.accuracy for point in kept],
            marker="o", markersize=8, markerfacecolor="none", markeredgecolor="tab:blue", linestyle="none",
            label=f"front of {', '.join(objective.axes)}",
        )  # fmt: skip
    _draw_trials(axes, [trial.number for trial in seen], points, stopped)
    _draw_finalists(axes, finalists)
    device = "" if goal.name in ("", f"{goal.target_ms:g}ms") else f" ({goal.name})"
    axes.set_xlabel(f"latency, ms{device}")
    axes.set_ylabel("validation accuracy of the proxy, %")
    axes.legend(loc="lower right", fontsize=8)
    _draw_progress(below, trials, goal, progress)
    figure.savefig(path)


def _draw_trials(axes: Any, numbers: Sequence[int], points: Sequence[Metrics], stopped: Sequence[Metrics]) -> None:
    scatter = axes.scatter(
        [point.latency_ms for point in points], [100 * point.accuracy for point in points],
        c=numbers, cmap="viridis", s=22, zorder=3,
    )  # fmt: skip
    axes.figure.colorbar(scatter, label="trial", ax=axes)
    if stopped:
        axes.scatter(
            [point.latency_ms for point in stopped], [100 * point.accuracy for point in stopped],
            facecolors="none", edgecolors="0.6", s=18, zorder=2, label="stopped",
        )  # fmt: skip


def _draw_finalists(axes: Any, finalists: Sequence[Finalist]) -> None:
    for index, finalist in enumerate(finalists):
        kind = "predicted" if finalist.measured is None else "measured"
        axes.plot(
            finalist.latency_ms, 100 * finalist.estimate,
            marker="*" if index == 0 else "x", color="tab:red", markersize=14 if index == 0 else 7, linestyle="none",
            zorder=4, label=f"winner, {kind}" if index == 0 else (f"finalists, {kind}" if index == 1 else None),
        )  # fmt: skip


def _draw_progress(axes: Any, trials: Sequence[Trial], goal: Goal, progress: Sequence[float]) -> None:
    """Draw over the trials' numbers what the search has reached."""
    numbers, reached = [trial.number + 1 for trial in trials], list(progress)
    if not reached:
        best = float("nan")
        for trial in trials:
            if trial.stopped_at is None:
                score = goal.score(trial.metrics)
                best = score if not best >= score else best
            reached.append(best)
    axes.step(numbers, reached, where="post", color="tab:blue", linewidth=1)
    axes.set_xlabel("trials")
    axes.set_ylabel("hypervolume" if len(progress) else "best score", fontsize=8)
