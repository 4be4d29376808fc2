"""`nas profile`: the latency table of this device."""

from __future__ import annotations

import argparse
from typing import Any

from nas.progress import Reporter

HELP = "measure the latency table of this device and runtime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--space", default="mnasnet", metavar="NAME", help="the space to cover (default: mnasnet)")
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        metavar="NAME",
        help="onnxruntime (default), or another of `nas list runtimes`",
    )
    parser.add_argument("--threads", default=1, type=int, metavar="N", help="threads of the runtime (default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="classes of the head (default: the space's own)")
    parser.add_argument("--table", metavar="FILE", help="the table to write (default: this machine's own)")


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure what the table lacks and return where it lies and what the space spans."""
    from pathlib import Path

    from nas.errors import TableError, UsageError
    from nas.latency import LatencyTable
    from nas.lattice import best_path, reachable
    from nas.profiler import default_table_path, profile, table_header
    from nas.space_file import load_space

    if args.threads < 1:
        raise UsageError(f"--threads: must be at least 1: {args.threads}")
    space = load_space(args.space)
    space = space.for_classes(args.classes) if args.classes is not None else space
    header = table_header(args.runtime, args.threads)
    path = Path(args.table) if args.table else default_table_path(header)
    table = LatencyTable.open(path, header)
    if differences := table.differences(header):
        raise TableError(f"{path}: {'; '.join(differences)}: measure into another --table")
    layers = reachable(space)
    measured = profile(layers, table, reporter)
    return {
        "table": str(path),
        "space": space.name,
        "layers": len(layers),
        "measured": measured,
        "fastest_ms": best_path(space, table.latency_ms)[0],
        "slowest_ms": best_path(space, table.latency_ms, largest=True)[0],
        "settings": table.header,
    }


def print_result(result: dict[str, Any]) -> None:
    """Print where the table lies and what the space spans."""
    from nas.units import format_latency

    print(f"table    {result['table']}")
    print(f"layers   {result['layers']} of '{result['space']}', {result['measured']} measured now")
    print(f"space    {format_latency(result['fastest_ms'])} to {format_latency(result['slowest_ms'])} by the table")
