"""Plots of `nas scale`: the cost of a family, and the candidates and comparison of a coefficient search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.training.tasks.metrics import spell, value_keys
from nas.utils.files import write_picture

COLORS = {"compound": "tab:red", "depth": "tab:blue", "width": "tab:green", "resolution": "tab:orange"}


def draw_family(result: Mapping[str, Any], path: Path) -> None:
    """Draw the growth of each network of a family, exact and after rounding, and its latency if that is known."""
    figure, axes = _figure(2 if result["base"]["latency_ms"] else 1)
    family = result["family"]
    places = range(len(family))
    axes[0].plot(places, [entry["growth"] for entry in family], color="0.6", linestyle="--", label="before rounding")
    axes[0].plot(places, [entry["macs_ratio"] for entry in family], color="tab:red", marker="o", label="MACs")
    axes[0].plot(
        places, [entry["activations_ratio"] for entry in family], color="tab:blue", marker=".", label="activations"
    )
    axes[0].plot(places, [entry["params_ratio"] for entry in family], color="tab:green", marker=".", label="parameters")
    axes[0].set_yscale("log", base=2)
    axes[0].set_ylabel("times the base")
    axes[0].legend(fontsize=8)
    if len(axes) > 1:
        _draw_latencies(axes[1], result["base"], family)
    for axis in axes:
        axis.set_xticks(list(places), [entry["name"] for entry in family], rotation=30, fontsize=8, ha="right")
    axes[0].set_title(f"{Path(result['network']).name}, rule: {result['rule']}", fontsize=9)
    write_picture(path, figure)


def _draw_latencies(axis: Any, base: Mapping[str, Any], family: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(family))
    axis.axhline(base["latency_ms"], color="0.6", linestyle=":", label="base")
    axis.plot(places, [entry["latency_ms"] for entry in family], color="tab:red", marker="o", label="latency")
    targets = [entry.get("target_latency_ms") for entry in family]
    if None not in targets:
        axis.plot(places, targets, color="0.3", marker="_", markersize=18, linestyle="none", label="target")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_ylabel("ms")
    axis.legend(fontsize=8)


def draw_scaling(result: Mapping[str, Any], path: Path) -> None:
    """Draw the metric over latency: the evaluated grid points, and the comparison of the rule with single dimensions.

    Error bars are standard deviations over seeds. Compared networks without accuracies are left out.
    """
    figure, (axis,) = _figure(1)
    grid, metric = result["search"]["candidates"], result["search"].get("metric", "accuracy")
    value, by_seed = value_keys(metric)
    axis.scatter(
        [entry["latency_ms"] for entry in grid],
        [100 * entry[value] for entry in grid],
        facecolors="none",
        edgecolors="0.6",
        s=22,
        label="grid, one seed",
        zorder=2,
    )
    compared = [entry for entry in result["comparison"] if entry[by_seed]]
    base = [entry for entry in compared if entry["name"] == "base"]
    for name in dict.fromkeys(entry["name"] for entry in compared):
        points = base + [entry for entry in compared if entry["name"] == name != "base"]
        axis.errorbar(
            [point["latency_ms"] for point in points],
            [100 * point[value] for point in points],
            yerr=[100 * (point["deviation"] or 0.0) for point in points],
            color=COLORS.get(name, "black"),
            marker="o",
            capsize=3,
            linewidth=1.2,
            label=_label(points[-1]["name"], len(points[-1][by_seed])),
            zorder=3,
        )
    if result["search"]["budget"]["resource"] == "latency":
        axis.axvline(result["search"]["budget"]["target"], color="0.5", linestyle="--", linewidth=1, label="budget")
    origin = "measured" if result["search"]["measured_on"]["measured"] else "predicted"
    axis.set_xlabel(f"latency, ms ({origin}, {result['search']['measured_on']['runtime']})")
    axis.set_ylabel(f"validation {spell(metric)}, %")
    axis.set_title(f"{Path(result['network']).name} scaled {result['search']['budget']['times']:g} times", fontsize=9)
    axis.legend(fontsize=8)
    write_picture(path, figure)


def _label(name: str, seeds: int) -> str:
    return f"{name}, {seeds} seed{'s' if seeds > 1 else ''}"


def _figure(rows: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.5 + 3 * rows), dpi=130, layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])
