"""Plots of a search's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.searching.winner_training import Finalist
from nas.study.objectives import Goal, Metrics, Objective
from nas.study.ranking import front
from nas.study.study import Trial
from nas.training.tasks.metrics import spell


@dataclass(frozen=True)
class TestedNetwork:
    """A trained network in the picture: the winner or a reference, with its latency in ms and its tested metric."""

    name: str
    latency_ms: float
    value: float


def draw_search(
    trials: Sequence[Trial],
    finalists: Sequence[Finalist],
    objective: Objective,
    goal: Goal,
    path: Path,
    progress: Sequence[float] = (),
    metric: str = "accuracy",
    tested: Sequence[TestedNetwork] = (),
) -> None:
    """Draw accuracy over latency for one goal, with the target, the Pareto front and the finalists.

    Finalists are drawn at their estimated accuracy and at their measured latency, or at the predicted one if the device
    is not available. Stopped trials are hollow and are not on the front.

    Args:
        trials: All evaluated trials.
        finalists: The finalists; the first one is the winner.
        objective: The objective of the search.
        goal: The goal.
        path: The PNG file to write.
        progress: The hypervolume after each trial, drawn in the lower plot. Without it, the goal's best score is drawn.
        metric: The metric of the accuracies.
        tested: Networks that were trained fully, drawn at their metric on the test images: the winner first.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=130, layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1))
    finished = [trial for trial in trials if trial.stopped_at is None]
    points = [trial.metrics.on(goal.device) for trial in finished]
    stopped = [trial.metrics.on(goal.device) for trial in trials if trial.stopped_at is not None]
    axes.axvline(goal.target_ms, color="0.5", linestyle="--", linewidth=1, label=f"target {goal.target_ms:g} ms")
    best = [points[index] for index in front(points)]
    line = {"drawstyle": "steps-post", "color": "tab:blue", "linewidth": 1, "alpha": 0.6}
    axes.plot(*_coordinates(best), label="front, predicted", **line)
    if len(objective.directions) > 2:  # the front has more axes than are drawn, so it need not be on the line
        best = [points[index] for index in front([trial.metrics for trial in finished], objective.axes)]
        circle = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": "tab:blue"}
        axes.plot(*_coordinates(best), linestyle="none", label=f"front of {', '.join(objective.axes)}", **circle)
    _draw_trials(axes, [trial.number for trial in finished], points, stopped)
    _draw_finalists(axes, finalists)
    _draw_tested(axes, tested)
    device = "" if goal.name in ("", f"{goal.target_ms:g}ms") else f" ({goal.name})"
    axes.set_xlabel(f"latency, ms{device}")
    axes.set_ylabel(f"validation {spell(metric)} of the proxy, %")
    axes.legend(loc="best" if tested else "lower right", fontsize=8)
    _draw_progress(below, trials, goal, progress)
    figure.savefig(path)


def _coordinates(points: Sequence[Metrics]) -> tuple[list[float], list[float]]:
    """Return the latencies in ms and the accuracies in percent."""
    return [point.latency_ms for point in points], [100 * point.accuracy for point in points]


def _draw_trials(axes: Any, numbers: Sequence[int], points: Sequence[Metrics], stopped: Sequence[Metrics]) -> None:
    scatter = axes.scatter(*_coordinates(points), c=numbers, cmap="viridis", s=22, zorder=3)
    axes.figure.colorbar(scatter, label="trial", ax=axes)
    if stopped:
        hollow = {"facecolors": "none", "edgecolors": "0.6"}
        axes.scatter(*_coordinates(stopped), s=18, zorder=2, label="stopped", **hollow)


def _draw_finalists(axes: Any, finalists: Sequence[Finalist]) -> None:
    for index, finalist in enumerate(finalists):
        basis = "predicted" if finalist.measured is None else "measured"
        label = {0: f"winner, {basis}", 1: f"finalists, {basis}"}.get(index)
        marker, size = ("*", 14) if index == 0 else ("x", 7)
        style = {"color": "tab:red", "linestyle": "none", "zorder": 4}
        point = finalist.latency_ms, 100 * finalist.estimate
        axes.plot(*point, marker=marker, markersize=size, label=label, **style)


def _draw_tested(axes: Any, tested: Sequence[TestedNetwork]) -> None:
    """Draw a star at the test of the winner, and one for each reference."""
    for index, network in enumerate(tested):
        color = "tab:red" if index == 0 else f"C{index + 3}"
        style = {"marker": "*", "markersize": 14, "linestyle": "none", "zorder": 5, "markeredgecolor": color}
        style["markerfacecolor"] = "none" if index == 0 else color
        axes.plot(network.latency_ms, 100 * network.value, label=f"{network.name}, trained and tested", **style)


def _draw_progress(axes: Any, trials: Sequence[Trial], goal: Goal, progress: Sequence[float]) -> None:
    """Draw what the search has reached after each trial."""
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
