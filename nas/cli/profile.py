"""`nas profile`: the latency table of this device."""

from __future__ import annotations

import argparse
from typing import Any

from nas.cli import profile_import
from nas.progress import Reporter

HELP = "measure the latency table of this device and runtime, or import a published one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--space", default="mnasnet", metavar="NAME", help="the space to cover (default: mnasnet)")
    parser.add_argument("--runtime", default="onnxruntime", metavar="NAME", help="onnxruntime (default) or torch")
    parser.add_argument("--threads", default=1, type=int, metavar="N", help="threads of the runtime (default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="classes of the head (default: the space's own)")
    parser.add_argument("--table", metavar="FILE", help="the table to write (default: this machine's own)")
    parser.add_argument("--verify", metavar="TABLE", help="measure fresh networks and say whether TABLE still holds")
    parser.add_argument(
        "--import", dest="imported", nargs="+", metavar="FILE", help="measure nothing, read a published table instead"
    )


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure what the table lacks and return where it lies and what the space spans."""
    if args.imported:
        return profile_import.run(args, reporter)
    from pathlib import Path

    from nas.errors import TableError, UsageError
    from nas.latency import LatencyTable
    from nas.lattice import best_path, reachable
    from nas.profiler import default_table_path, profile, table_header
    from nas.space_file import load_space

    if args.verify is not None:
        return _verify(args, reporter)
    if args.threads < 1:
        raise UsageError(f"--threads: must be at least 1: {args.threads}")
    space = load_space(args.space)
    space = space.for_classes(args.classes) if args.classes is not None else space
    header = table_header(args.runtime, args.threads)
    path = Path(args.table) if args.table else default_table_path(header)
    table = LatencyTable.open(path, header)
    if differences := table.differences(header):
        raise TableError(f"{path}: {'; '.join(differences)}: measure into another --table")
    measured = profile(space, table, reporter)
    predictor, certificate = table.predictor(space.name), table.certificates.get(space.name)
    fastest, slowest = (best_path(space, predictor.layer_ms, largest=largest)[0] for largest in (False, True))
    return {
        "table": str(path),
        "space": space.name,
        "layers": len(reachable(space)),
        "measured": measured,
        "fastest_ms": fastest,
        "slowest_ms": slowest,
        "calibration": predictor.calibration.to_dict(),
        "certificate": certificate.to_dict() if certificate else None,
        "settings": table.header,
    }


def _verify(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from pathlib import Path

    from nas.errors import TableError
    from nas.latency import LatencyTable
    from nas.profiler import table_header
    from nas.space_file import load_space
    from nas.verify import verify

    table = LatencyTable.open(Path(args.verify))
    if differences := table.differences(table_header(table.header["runtime"], table.header["threads"])):
        raise TableError(f"{table.path}: {'; '.join(differences)}: it can be verified there only")
    space = load_space(args.space if args.space in table.certificates else next(iter(table.certificates), args.space))
    verification = verify(space, table, reporter)
    return {"table": str(table.path), "space": space.name, **verification.to_dict()}


def exit_status(result: dict[str, Any]) -> int:
    """Return 1 where a verified table does not hold."""
    return 0 if result.get("holds", True) else 1


def print_result(result: dict[str, Any]) -> None:
    """Print where the table lies and what the space spans, or whether the table holds."""
    from nas.calibration import Certificate
    from nas.units import format_latency

    if "imported" in result:
        profile_import.print_result(result)
        return
    print(f"table    {result['table']}")
    if "holds" in result:
        print(f"fresh    {Certificate.from_dict(result['certificate'])}")
        print(f"factor   {result['factor']:.3f} (measured / predicted)")
        print(f"verdict  {result['verdict']}")
        return
    print(f"layers   {result['layers']} of '{result['space']}', {result['measured']} measured now")
    if result["certificate"]:
        print(f"holds to {Certificate.from_dict(result['certificate'])}")
    print(f"space    {format_latency(result['fastest_ms'])} to {format_latency(result['slowest_ms'])} by the table")
