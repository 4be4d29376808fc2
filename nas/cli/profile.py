"""`nas profile`: the latency table of a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nas.progress import Reporter

if TYPE_CHECKING:
    from nas.device import Worker
    from nas.space import Space

HELP = "measure the latency table of a device and runtime"
DEFAULTS = {"space": "mnasnet", "runtime": "onnxruntime", "threads": 1, "device": "local"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those that were not given are None, so that --import can refuse what it would ignore."""
    parser.add_argument("--space", metavar="NAME", help="the space to cover (default: mnasnet)")
    parser.add_argument("--runtime", metavar="NAME", help="onnxruntime (default) or torch")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the runtime (default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="classes of the head (default: the space's own)")
    parser.add_argument("--table", metavar="FILE", help="the table to write (default: the device's own)")
    parser.add_argument(
        "--device", metavar="URL", help="where to measure: local (default) or ssh://user@host:port/path/to/python"
    )
    parser.add_argument("--bundle", metavar="DIR", help="write a folder that measures on a board without a connection")
    parser.add_argument("--import", dest="imported", metavar="DIR", help="take such a folder's measurements")


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure what the table lacks, here, on a device or from a bundle; return where it lies and what it spans."""
    from nas.errors import UsageError

    if args.imported is not None:
        _refuse(args, "import", ("space", "runtime", "threads", "classes", "device", "bundle"))
        return _import(args, reporter)
    if args.bundle is not None:
        _refuse(args, "bundle", ("device", "table"))
    for key, default in DEFAULTS.items():
        if getattr(args, key) is None:
            setattr(args, key, default)
    if args.threads < 1:
        raise UsageError(f"--threads: must be at least 1: {args.threads}")
    return _live(args, reporter) if args.bundle is None else _bundle(args, reporter)


def _refuse(args: argparse.Namespace, flag: str, others: tuple[str, ...]) -> None:
    from nas.errors import UsageError

    for other in others:
        if getattr(args, other) is not None:
            raise UsageError(f"--{other}: cannot stand beside --{flag}")


def _live(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from nas.device import open_worker
    from nas.profiler import table_header

    space = _space(args.space, args.classes)
    worker = open_worker(args.device, args.runtime, args.threads, reporter.say)
    header = table_header(args.runtime, args.threads, args.device)
    return _fill(space, header, args.table, worker, reporter)


def _bundle(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from pathlib import Path

    from nas.bundle import new_folder, write_bundle
    from nas.device import find_runtime
    from nas.lattice import reachable
    from nas.space_file import space_path

    folder = new_folder(Path(args.bundle))
    find_runtime(args.runtime)  # raises for an unknown name before the layers are listed
    layers, path = reachable(_space(args.space, args.classes)), space_path(args.space)
    about = write_bundle(folder, path, args.classes, layers, args.runtime, args.threads, reporter)
    return {"bundle": args.bundle, **{key: about[key] for key in ("space", "runtime", "threads", "layers", "batches")}}


def _import(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from pathlib import Path

    from nas.bundle import read_bundle
    from nas.profiler import make_header

    folder = Path(args.imported)
    about, worker = read_bundle(folder)
    space = _space(str(folder / about["space"]), about["classes"] or None)
    settings = worker.settings
    header = make_header(
        worker.device, about["runtime"], settings["runtime_version"], about["threads"], settings["host"]
    )
    return _fill(space, header, args.table, worker, reporter)


def _space(name: str, classes: int | None) -> Space:
    from nas.space_file import load_space

    space = load_space(name)
    return space.for_classes(classes) if classes is not None else space


def _fill(
    space: Space, header: dict[str, Any], given: str | None, worker: Worker, reporter: Reporter
) -> dict[str, Any]:
    from pathlib import Path

    from nas.errors import TableError
    from nas.latency import LatencyTable
    from nas.lattice import best_path, reachable
    from nas.profiler import default_table_path, profile

    path = Path(given) if given else default_table_path(header)
    table = LatencyTable.open(path, header)
    if differences := table.differences(header):
        raise TableError(f"{path}: {'; '.join(differences)}: measure into another --table")
    layers = reachable(space)
    measured = profile(layers, table, reporter, worker=worker)
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
    """Print where the table lies and what the space spans, or what to do with a bundle."""
    from nas.units import format_latency

    if "bundle" in result:
        print(f"bundle   {result['bundle']}: {result['layers']} layers in {result['batches']} batches")
        print("next     copy it to the board, run there 'python3 run.py', copy it back, nas profile --import it")
        return
    print(f"table    {result['table']}")
    print(f"layers   {result['layers']} of '{result['space']}', {result['measured']} measured now")
    print(f"space    {format_latency(result['fastest_ms'])} to {format_latency(result['slowest_ms'])} by the table")
