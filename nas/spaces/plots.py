"""The plot of the latency distribution of a space."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.spaces.latency_distribution import Distribution
from nas.utils.units import format_latency

SUFFIXES = (".png", ".svg")
BARS = 120
MARKED = {0.01: "1 %", 0.1: "10 %", 0.5: "median", 0.9: "90 %"}


def check_picture(path: Path, key: str) -> Path:
    """Return `path` if a picture can be written there. Raises UsageError otherwise."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"must end in {' or '.join(SUFFIXES)}", key=key, value=str(path))
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: no such folder", key=key, value=str(path.parent))
    return path


def draw_distribution(distribution: Distribution, title: str, target_ms: float | None, path: Path) -> None:
    """Draw the latency histogram with its quantiles and the target. Raises UsageError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
    axes = figure.subplots()
    fastest, slowest = float(distribution.edges_ms[0]), float(distribution.edges_ms[-1])
    end = min(max(distribution.quantile(0.999), target_ms or 0.0), slowest)
    _draw_histogram(axes, distribution, slowest if target_ms is None else target_ms, (fastest, end))
    if target_ms is not None:
        share = distribution.share_within(target_ms)
        spelled = f"{share:.3g} of all" if share < 0.001 else f"{share:.1%} within"
        label = f"target {format_latency(target_ms)}: {spelled}"
        axes.axvline(target_ms, color="tab:red", linewidth=1.2, label=label)
    _draw_sums(axes.twinx(), distribution, (fastest, end))
    span = f"{format_latency(fastest)} to {format_latency(slowest)}"
    axes.set_title(f"{title}: {distribution.total:.3g} networks, {span}", fontsize=10)
    if target_ms is not None:
        axes.legend(loc="center right", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", key="plot") from error


def _draw_histogram(axes: Any, distribution: Distribution, limit_ms: float, span_ms: tuple[float, float]) -> None:
    """Draw the share of networks per bar, gray above `limit_ms`, and mark the quantiles."""
    from matplotlib.ticker import PercentFormatter

    edges = np.linspace(*span_ms, BARS + 1)
    shares = distribution.histogram(edges)
    middles = (edges[:-1] + edges[1:]) / 2
    within = middles <= limit_ms
    width = edges[1] - edges[0]
    axes.bar(middles[within], shares[within], width, color="tab:blue", alpha=0.75)
    axes.bar(middles[~within], shares[~within], width, color="0.8")
    top = 1.18 * float(shares.max())
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}
    style = {"textcoords": "offset points", "fontsize": 7.5, "va": "top", "color": "0.25", "zorder": 5, "bbox": box}
    for share, name in MARKED.items():
        latency = distribution.quantile(share)
        axes.axvline(latency, color="0.35", linewidth=0.8, linestyle=":")
        axes.annotate(f"{name}\n{format_latency(latency)}", (latency, top), (2, -2), **style)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlim=span_ms, ylim=(0, top), xlabel="predicted latency, ms", ylabel=f"share of networks per {width:.2g} ms"
    )


def _draw_sums(axes: Any, distribution: Distribution, span_ms: tuple[float, float]) -> None:
    """Draw the cumulative share of networks."""
    from matplotlib.ticker import PercentFormatter

    latencies = np.linspace(*span_ms, 4 * BARS)
    sums = [distribution.share_within(float(ms)) for ms in latencies]
    axes.plot(latencies, sums, color="tab:orange", linewidth=1.3)
    axes.set(ylim=(0, 1.18), ylabel="share of networks within, cumulative")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.label.set_color("tab:orange")
