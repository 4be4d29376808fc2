"""`nas profile`: measures, verifies, imports or bundles a latency table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nas.cli import profile_import, profile_network, profile_verify
from nas.utils.reporting import Reporter

if TYPE_CHECKING:
    from nas.devices.client import Worker
    from nas.devices.timing import Protocol
    from nas.latency.table import LatencyTable
    from nas.spaces.search_space import Space

HELP = "measure, verify or import the latency table of a device and runtime, or measure one exported network"
DEFAULTS = {"space": "mnasnet", "runtime": "onnxruntime", "threads": 1, "device": "local"}
MODES = {
    "network": ("space", "classes", "resolution", "table", "name", "replace", "energy", "import", "bundle", "verify"),
    "import": (
        "space",
        "runtime",
        "precision",
        "threads",
        "classes",
        "resolution",
        "device",
        "energy",
        "bundle",
        "verify",
    ),
    "bundle": ("device", "resolution", "table", "name", "replace", "energy", "verify"),
    "verify": ("runtime", "precision", "threads", "classes", "resolution", "table", "name", "replace", "energy"),
}
"""For each flag that selects another mode than a live measurement, the flags that it cannot be combined with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags. A flag that is not given is None, so that `run` can refuse flags without effect."""
    parser.add_argument(
        "network", nargs="?", metavar="NETWORK", help="an ONNX file, an exported folder or a run folder"
    )
    parser.add_argument("--space", metavar="NAME", help="search space to cover (default: mnasnet)")
    parser.add_argument("--runtime", metavar="NAME", help="runtime, see 'nas list runtimes' (default: onnxruntime)")
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="numbers that networks compute with: float32 (default), float16, bfloat16 or int8",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="number of runtime threads (default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="number of output classes (default: as in the space)")
    parser.add_argument(
        "--resolution",
        metavar="PX",
        help="input resolutions of the networks, as 96,128 (default: those of the space)",
    )
    parser.add_argument("--table", metavar="FILE", help="table to write (default: this device's table in the cache)")
    parser.add_argument("--name", metavar="NAME", help="name of the device, for a table that --table NAME then finds")
    parser.add_argument(
        "--replace",
        action="store_const",
        const=True,
        help="discard the existing table, even if it is of another device",
    )
    parser.add_argument(
        "--device", metavar="URL", help="device to measure on: local (default) or ssh://user@host:port/path/to/python"
    )
    parser.add_argument(
        "--energy",
        action="store_const",
        const=True,
        help="also measure energy, if the device has a meter",
    )
    parser.add_argument("--verify", metavar="TABLE", help="check TABLE's predictions on new random networks")
    parser.add_argument("--bundle", metavar="DIR", help="write a folder that measures on an offline device")
    parser.add_argument(
        "--import",
        dest="imported",
        nargs="+",
        metavar="FILE",
        help="import a published table, or the folder of a finished --bundle",
    )


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Run the mode that the flags select (see `MODES`); without one, measure the layers that the table lacks.

    Returns:
        The table's path, the layers measured and the latency range of the space; other facts in the other modes.
    """
    from nas.devices.runtimes import with_precision
    from nas.errors import UsageError

    given = {"network": args.network, "import": args.imported, "bundle": args.bundle, "verify": args.verify}
    mode = next((name for name, value in given.items() if value is not None), None)
    for other in MODES.get(mode or "", ()):
        if getattr(args, "imported" if other == "import" else other) is not None:
            raise UsageError(f"cannot be combined with {'NETWORK' if mode == 'network' else f'--{mode}'}", key=other)
    if mode == "import":
        return profile_import.run(args, reporter, _fill_table)
    if mode == "verify":
        return profile_verify.run(args, reporter)
    for key, default in DEFAULTS.items():
        if getattr(args, key) is None:
            setattr(args, key, default)
    if args.precision is not None:
        args.runtime = with_precision(args.runtime, args.precision)
    if args.threads < 1:
        raise UsageError("must be at least 1", key="threads", value=args.threads)
    if mode == "network":
        return profile_network.run(args, reporter)
    return _measure(args, reporter) if args.bundle is None else _bundle(args, reporter)


def _measure(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from nas.devices.client import open_worker
    from nas.devices.runtimes import find_runtime
    from nas.devices.timing import Protocol
    from nas.latency.profiler import ENERGY_MS, table_header

    find_runtime(args.runtime)  # refuses an unknown name before a worker is started
    space = _load_space(args)
    worker = open_worker(args.device, args.runtime, args.threads, reporter.say)
    header = table_header(args.runtime, args.threads, args.device)
    protocol = Protocol(energy_ms=ENERGY_MS if args.energy else 0.0)
    result = _fill_table(space, header, args, worker, reporter, protocol)
    if args.energy and "energy_mj" not in result["columns"]:
        why = "the device has no readable meter" if result["measured"] else "give a new --table"
        reporter.warn(f"--energy: no energy was measured: {why}")
    return result


def _bundle(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    from pathlib import Path

    from nas.devices.runtimes import find_runtime
    from nas.latency.offline_bundle import new_folder, write_bundle
    from nas.spaces.yaml_format import space_path

    folder = new_folder(Path(args.bundle))
    find_runtime(args.runtime)  # refuses an unknown name before the layers are listed
    space = _load_space(args)
    about = write_bundle(folder, space_path(args.space), space, args.classes, args.runtime, args.threads, reporter)
    return {"bundle": args.bundle, **{key: about[key] for key in ("space", "runtime", "threads", "layers", "batches")}}


def _load_space(args: argparse.Namespace) -> Space:
    from nas.spaces.resolutions import as_rectangle, at_resolutions
    from nas.spaces.yaml_format import load_space
    from nas.utils.units import parse_resolutions

    space = as_rectangle(load_space(args.space))
    space = space if args.classes is None else space.for_classes(args.classes)
    return at_resolutions(space, parse_resolutions(args.resolution)) if args.resolution else space


def _fill_table(
    space: Space,
    header: dict[str, Any],
    args: argparse.Namespace,
    worker: Worker,
    reporter: Reporter,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    from nas.latency.profiler import profile
    from nas.spaces.automaton import best_path, reachable

    table = _table_to_fill(header, args, reporter)
    reporter.say(f"listing the layers of '{space.name}'")
    layers = len(reachable(space))
    measured = profile(space, table, reporter, protocol, worker)
    predictor, certificate = table.predictor(space.key), table.certificates.get(space.key)
    fastest, slowest = (best_path(space, predictor.layer_ms, largest=largest)[0] for largest in (False, True))
    return {
        "table": str(table.path),
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


def _table_to_fill(header: dict[str, Any], args: argparse.Namespace, reporter: Reporter) -> LatencyTable:
    """Return the table of --table, of --name, or the device's own. Raises TableError for that of another device."""
    from pathlib import Path

    from nas.errors import TableError
    from nas.latency.catalog import check_name, device_path
    from nas.latency.profiler import default_table_path
    from nas.latency.published import is_published
    from nas.latency.table import LatencyTable

    if args.name is not None:
        check_name(args.name)
        header["name"] = args.name
    default = device_path(args.name) if args.name else default_table_path(header)
    path = Path(args.table).expanduser() if args.table else default
    if args.replace and path.is_file():
        if is_published(LatencyTable.open(path)):  # raises if it is not a table
            raise TableError("is a published table; measurements do not replace it", where=path)
        reporter.say(f"{path}: the existing table is discarded")
        path.unlink()
    table = LatencyTable.open(path, header)
    if differences := table.differences(header):
        advice = "give another --table or --name, or --replace to discard it"
        raise TableError(f"{'; '.join(differences.values())}; {advice}", where=table.path)
    return table


def exit_status(result: dict[str, Any]) -> int:
    """Return 1 if `--verify` found that the table is no longer accurate, else 0."""
    return 0 if result.get("holds", True) else 1


def print_result(result: dict[str, Any]) -> None:
    """Print the table's path, its accuracy and its latency range, or the result of another mode."""
    from nas.latency.calibration import Certificate
    from nas.utils.units import format_latency

    if "nodes" in result:
        profile_network.print_result(result)
    elif "imported" in result:
        profile_import.print_result(result)
    elif "holds" in result:
        profile_verify.print_result(result)
    elif "bundle" in result:
        print(f"bundle   {result['bundle']}: {result['layers']} layers in {result['batches']} batches")
        print("next     copy it to the device, run 'python3 run.py' there, copy it back, nas profile --import it")
    else:
        print(f"table    {result['table']}")
        print(f"layers   {result['layers']} of '{result['space']}', {result['measured']} measured now")
        if result["certificate"]:
            print(f"accuracy {Certificate.from_dict(result['certificate'])}")
        span = f"{format_latency(result['fastest_ms'])} to {format_latency(result['slowest_ms'])}"
        print(f"space    {span} predicted")
        columns = ", ".join(f"{column} of {rows} rows" for column, rows in result["columns"].items())
        print(f"columns  {columns or 'latency only'}")
