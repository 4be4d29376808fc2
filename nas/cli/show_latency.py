"""`nas show SPACE --table`: the latency distribution of a space, predicted by a latency table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.utils.reporting import Reporter

if TYPE_CHECKING:
    from nas.latency.table import LatencyTable
    from nas.spaces.latency_distribution import Distribution

DEFAULT_TABLE = "default"
SHARES = (0.01, 0.1, 0.5, 0.9, 0.99)
BINS = 100
COLUMNS, LINES = 60, 5
SHOWN_SHARE = 0.995
"""The share of networks that the terminal's histogram covers; the slowest few would take most of its width."""
_FLAGS = ("table", "runtime", "threads", "classes", "plot", "target_latency")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("latency distribution of a space, without measuring")
    group.add_argument(
        "--table", metavar="FILE", help="latency table: a name, a file, or 'default' for this machine's table"
    )
    group.add_argument("--runtime", metavar="NAME", help="runtime of this machine's table (default: onnxruntime)")
    group.add_argument(
        "--threads", type=int, metavar="N", help="number of threads of this machine's table (default: 1)"
    )
    group.add_argument("--classes", type=int, metavar="N", help="number of output classes (default: as in the space)")
    group.add_argument("--target-latency", metavar="T", help="also count the networks within T, such as 20ms")
    group.add_argument("--plot", metavar="FILE", help="also plot the distribution to a .png or .svg file")


def given(args: argparse.Namespace) -> list[str]:
    """Return the flags that were given."""
    return [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(args, name) is not None]


def run(args: argparse.Namespace, space: Any, reporter: Reporter) -> dict[str, Any]:
    """Return {"latency": distribution of the space's latency}, or {} if none of the flags is given.

    Raises:
        UsageError: A flag is invalid.
        TableError: The table does not cover the space.
    """
    if not given(args):
        return {}
    from nas.errors import UsageError
    from nas.latency.published import complete, is_published
    from nas.spaces.automaton import reachable
    from nas.spaces.cost_tables import tabulate_costs
    from nas.spaces.latency_distribution import latency_distribution
    from nas.spaces.plots import check_picture, draw_distribution
    from nas.utils.units import parse_latency

    if args.classes is not None and args.classes < 1:
        raise UsageError("must be at least 1", key="classes", value=args.classes)
    target_ms = None if args.target_latency is None else parse_latency(args.target_latency)
    plot = None if args.plot is None else check_picture(Path(args.plot), "plot")
    table = _table(args)
    space = space.for_classes(args.classes) if args.classes is not None else space
    reporter.say(f"listing the layers of '{space.name}'")
    if is_published(table):
        for note in complete(table, reachable(space)):
            reporter.say(f"{table.path.stem}: {note}")
    predictor = table.predictor(space.key)
    space_costs = tabulate_costs(space, predictor.layer_ms)
    distribution = latency_distribution(space_costs)
    found = _summary(table, space_costs, distribution)
    heads = space_costs.automaton.positions[-1].rows
    post = [predictor.post_share_ms(layer) for step in heads for layer in step.layers]
    if any(post):
        found["post_ms"] = [min(ms for ms in post if ms), max(post)]
    if target_ms is not None:
        found["target"] = _within(space_costs, target_ms)
    if plot is not None:
        title = f"{space.name} in {found['runtime']} {found['runtime_version']}, {_format_threads(found)}"
        draw_distribution(distribution, title, target_ms, plot)
        found["plot"] = str(plot)
    return {"latency": found}


def _summary(table: LatencyTable, space_costs: Any, distribution: Distribution) -> dict[str, Any]:
    """Return the latencies of a space and the device that they are of."""
    return {
        "table": str(table.path),
        **{key: table.header[key] for key in ("device", "runtime", "runtime_version", "threads", "dtype")},
        "networks": space_costs.size,
        "fastest_ms": space_costs.min_cost,
        "quantiles_ms": {f"{share:g}": distribution.quantile(share) for share in SHARES},
        "quantiles_error_ms": distribution.error_ms,
        "slowest_ms": space_costs.max_cost,
        "histogram": _histogram(distribution, space_costs.max_cost, BINS),
        "shown": _histogram(distribution, distribution.quantile(SHOWN_SHARE), COLUMNS),
    }


def _table(args: argparse.Namespace) -> LatencyTable:
    from nas.errors import TableError, UsageError
    from nas.latency.catalog import open_named
    from nas.latency.profiler import default_table_path, table_header
    from nas.latency.table import LatencyTable

    if args.table not in (None, DEFAULT_TABLE):
        for flag in set(given(args)) & {"--runtime", "--threads"}:
            raise UsageError(f"{flag}: selects this machine's table, but --table names one", value=args.table)
        return open_named(args.table)
    threads = 1 if args.threads is None else args.threads
    if threads < 1:
        raise UsageError("must be at least 1", key="threads", value=threads)
    path = default_table_path(table_header(args.runtime or "onnxruntime", threads))
    if not path.is_file():
        raise TableError(f"no such latency table; 'nas profile --space {args.name}' measures it", where=path)
    return LatencyTable.open(path)


def _histogram(distribution: Distribution, end_ms: float, bins: int) -> dict[str, list[float]]:
    import numpy as np

    edges = np.linspace(distribution.edges_ms[0], end_ms, bins + 1)
    return {"edges_ms": edges.tolist(), "shares": distribution.histogram(edges).tolist()}


def _within(space_costs: Any, target_ms: float) -> dict[str, Any]:
    from nas.spaces.latency_distribution import count_within

    count = count_within(space_costs, target_ms)
    return {"target_ms": target_ms, "share": count.likely / space_costs.size, "networks": count._asdict()}


def _format_threads(header: dict[str, Any]) -> str:
    return f"{header['threads']} thread{'' if header['threads'] == 1 else 's'}"


def print_result(result: dict[str, Any], console: Any) -> None:
    """Print the quantiles, the histogram and the share of networks within the target."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nas.utils.units import format_latency

    names = {"0.01": "1 %", "0.1": "10 %", "0.5": "median", "0.9": "90 %", "0.99": "99 %"}
    table = Table("fastest", *names.values(), "slowest", box=SIMPLE_HEAD, pad_edge=False)
    quantiles = [result["quantiles_ms"][key] for key in names]
    table.add_row(*map(format_latency, (result["fastest_ms"], *quantiles, result["slowest_ms"])))
    console.print(
        f"\nlatency of its {result['networks']:.3g} distinct networks by the table of "
        f"{result['runtime']} {result['runtime_version']}, {_format_threads(result)}",
        highlight=False,
    )
    console.print(table)
    if "post_ms" in result:
        low, high = map(format_latency, result["post_ms"])
        console.print(f"of it, post-processing takes {low} to {high}", highlight=False)
    _print_histogram(result["shown"], console)
    if "target" in result:
        target = result["target"]
        console.print(
            f"{_format_percent(target['share'])} of them, about {target['networks']['likely']:.3g}, are within "
            f"{format_latency(target['target_ms'])}",
            highlight=False,
        )
    if "plot" in result:
        console.print(f"picture  {result['plot']}", highlight=False)


def _format_percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or 0.001 <= share <= 0.999 or share == 1 else f"{100 * share:.6g}%"


def _print_histogram(histogram: dict[str, list[float]], console: Any) -> None:
    from nas.utils.units import format_latency

    marks = " #" if console.options.ascii_only else " ▁▂▃▄▅▆▇█"
    steps = len(marks) - 1
    shares, edges = histogram["shares"], histogram["edges_ms"]
    heights = [round(LINES * steps * share / max(*shares, 1e-300)) for share in shares]
    for line in reversed(range(LINES)):
        text = "".join(marks[min(max(height - line * steps, 0), steps)] for height in heights)
        console.print(text.rstrip(), highlight=False)
    first, middle, last = (format_latency(edge) for edge in (edges[0], edges[len(edges) // 2], edges[-1]))
    half = len(shares) // 2
    labels = first.ljust(half - len(middle) // 2) + middle
    console.print(labels + last.rjust(len(shares) - len(labels)), style="dim", highlight=False)
