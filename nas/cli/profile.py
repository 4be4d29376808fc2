"""`nas profile`: the latency table of a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nas.cli import profile_import, profile_verify
from nas.utils.reporting import Reporter

if TYPE_CHECKING:
    from nas.devices.client import Worker
    from nas.devices.timing import Protocol
    from nas.spaces.search_space import Space

HELP = "measure the latency table of a device and runtime, check one, or import a published one"
DEFAULTS = {"space": "mnasnet", "runtime": "onnxruntime", "threads": 1, "device": "local"}
MODES = {
    "import": ("space", "runtime", "threads", "classes", "device", "energy", "bundle", "verify"),
    "bundle": ("device", "table", "energy", "verify"),
    "verify": ("runtime", "threads", "classes", "table", "energy"),
}
"""Flags that do something else than measuring here and now, and those that would have no effect beside each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those that were not given are None, so that what would have no effect can be refused."""
    parser.add_argument("--space", metavar="NAME", help="the space to cover (default: mnasnet)")
    parser.add_argument("--runtime", metavar="NAME", help="onnxruntime (default), or another of 'nas list runtimes'")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the runtime (default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="classes of the head (default: the space's own)")
    parser.add_argument("--table", metavar="FILE", help="the table to write (default: the device's own)")
    parser.add_argument(
        "--device", metavar="URL", help="where to measure: local (default) or ssh://user@host:port/path/to/python"
    )
    parser.add_argument(
        "--energy", action="store_const", const=True, help="also the energy of a call, where the device has a meter"
    )
    parser.add_argument("--verify", metavar="TABLE", help="measure fresh networks and say whether TABLE still holds")
    parser.add_argument("--bundle", metavar="DIR", help="write a folder that measures on a board without a connection")
    parser.add_argument(
        "--import", dest="imported", nargs="+", metavar="FILE",
        help="measure nothing: read a published table, or such a folder when it comes back",
    )  # fmt: skip


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure what the table lacks, here or on a device, and return where it lies and what it spans; or see `MODES`."""
    from nas.errors import UsageError

    given = {"import": args.imported, "bundle": args.bundle, "verify": args.verify}
    mode = next((name for name, value in given.items() if value is not None), None)
    for other in MODES.get(mode or "", ()):
        if getattr(args, other) is not None:
            raise UsageError(f"--{other}: cannot stand beside --{mode}")
    if mode == "import":
        return profile_import.run(args, reporter, _fill)
    if mode == "verify":
        return profile_verify.run(args, reporter)
    for key, default in DEFAULTS.items():
        if getattr(args, key) is None:
            setattr(args, key, default)
    if args.threads < 1:
        raise UsageError(f"--threads: must be at least 1: {args.threads}")
    return _live(args, reporter) if args.bundle is None else _bundle(args, reporter)


def _live(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from nas.devices.client import open_worker
    from nas.devices.runtimes import find_runtime
    from nas.devices.timing import Protocol
    from nas.latency.profiler import ENERGY_MS, table_header
    from nas.spaces.yaml_format import load_space

    find_runtime(args.runtime)  # raises for an unknown name before a device is asked
    space = load_space(args.space)
    space = space.for_classes(args.classes) if args.classes is not None else space
    worker = open_worker(args.device, args.runtime, args.threads, reporter.say)
    header = table_header(args.runtime, args.threads, args.device)
    result = _fill(space, header, args.table, worker, reporter, Protocol(energy_ms=ENERGY_MS if args.energy else 0.0))
    if args.energy and "energy_mj" not in result["columns"]:
        why = "the device has no meter that can be read" if result["measured"] else "measure into another --table"
        reporter.warn(f"--energy: no energy was measured: {why}")
    return result


def _bundle(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from pathlib import Path

    from nas.devices.runtimes import find_runtime
    from nas.latency.offline_bundle import new_folder, write_bundle
    from nas.spaces.yaml_format import load_space, space_path

    folder = new_folder(Path(args.bundle))
    find_runtime(args.runtime)  # raises for an unknown name before the layers are listed
    space = load_space(args.space)
    space = space.for_classes(args.classes) if args.classes is not None else space
    about = write_bundle(folder, space_path(args.space), space, args.classes, args.runtime, args.threads, reporter)
    return {"bundle": args.bundle, **{key: about[key] for key in ("space", "runtime", "threads", "layers", "batches")}}


def _fill(
    space: Space,
    header: dict[str, Any],
    given: str | None,
    worker: Worker,
    reporter: Reporter,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    from pathlib import Path

    from nas.errors import TableError
    from nas.latency.profiler import default_table_path, profile
    from nas.latency.table import LatencyTable
    from nas.spaces.automaton import best_path, reachable

    path = Path(given) if given else default_table_path(header)
    table = LatencyTable.open(path, header)
    if differences := table.differences(header):
        raise TableError(f"{path}: {'; '.join(differences.values())}: measure into another --table")
    reporter.say(f"listing the layers that '{space.name}' can have")
    layers = len(reachable(space))
    measured = profile(space, table, reporter, protocol, worker)
    predictor, certificate = table.predictor(space.key), table.certificates.get(space.key)
    fastest, slowest = (best_path(space, predictor.layer_ms, largest=largest)[0] for largest in (False, True))
    return {
        "table": str(path),
        "space": space.name,
        "layers": layers,
        "measured": measured,
        "fastest_ms": fastest,
        "slowest_ms": slowest,
        "calibration": predictor.calibration.to_dict(),
        "certificate": certificate.to_dict() if certificate else None,
        "columns": {column: len(values) for column, values in table.costs.items()},
        "settings": table.header,
    }


def exit_status(result: dict[str, Any]) -> int:
    """Return 1 where a verified table does not hold."""
    return 0 if result.get("holds", True) else 1


def print_result(result: dict[str, Any]) -> None:
    """Print where the table lies, what it spans and how far it holds; or what the mode has found."""
    from nas.latency.calibration import Certificate
    from nas.utils.units import format_latency

    if "imported" in result:
        profile_import.print_result(result)
    elif "holds" in result:
        profile_verify.print_result(result)
    elif "bundle" in result:
        print(f"bundle   {result['bundle']}: {result['layers']} layers in {result['batches']} batches")
        print("next     copy it to the board, run there 'python3 run.py', copy it back, nas profile --import it")
    else:
        print(f"table    {result['table']}")
        print(f"layers   {result['layers']} of '{result['space']}', {result['measured']} measured now")
        if result["certificate"]:
            print(f"holds to {Certificate.from_dict(result['certificate'])}")
        span = f"{format_latency(result['fastest_ms'])} to {format_latency(result['slowest_ms'])}"
        print(f"space    {span} by the table")
        columns = ", ".join(f"{column} of {rows} rows" for column, rows in result["columns"].items())
        print(f"columns  {columns or 'times only'}")
