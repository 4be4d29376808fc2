"""`nas compare`: networks, exports and runs beside each other, measured alternately."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.utils.reporting import Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from nas.latency.side_by_side import Subject

HELP = "measure networks beside each other: latency, size, memory and, with --data, accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="run or exported folders, ONNX files, network names or YAML files"
    )
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        metavar="NAME",
        help="runtime, see 'nas list runtimes' (default: onnxruntime)",
    )
    parser.add_argument(
        "--precision",
        metavar="A,B",
        help="precisions to compare, for example float32,int8 (default: float32)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="number of runtime threads (default: 1)")
    parser.add_argument("--device", default="local", metavar="URL", help="device: local (default) or ssh://user@host")
    parser.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="list the N slowest nodes of each file, as the runtime's own profiler times them; only on this machine",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="test the files on the test images; the training images decide the ranges of int8"
    )


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure the sources in each precision, and return one entry for each pair."""
    import tempfile

    from nas.devices.runtimes import make_runtime, with_precision
    from nas.errors import UsageError
    from nas.latency.profiler import table_header
    from nas.latency.side_by_side import check_profiler, measure_side_by_side, slowest_nodes

    if args.threads < 1:
        raise UsageError("must be at least 1", key="threads", value=args.threads)
    precisions = args.precision.split(",") if args.precision else []
    runtimes = list(dict.fromkeys(with_precision(args.runtime, each.strip()) for each in precisions)) or [args.runtime]
    for name in runtimes if args.device == "local" else ():
        make_runtime(name)
    if args.layers is not None:
        if args.layers < 1 or args.device != "local":
            raise UsageError("must be at least 1, on this machine", key="layers", value=args.layers)
        for name in runtimes:
            check_profiler(name)
    with tempfile.TemporaryDirectory(prefix="nas-compare-") as folder:
        entries = []
        for number, (source, name) in enumerate((source, name) for source in args.sources for name in runtimes):
            entries.append(_entry(f"n{number}", source, name, Path(folder), args.data))
        tests = [_test_of(subject, args.data, facts.pop("fit")) for subject, facts in entries]
        latencies = measure_side_by_side([subject for subject, _ in entries], args.threads, args.device, reporter)
        found = []
        for (subject, facts), test in zip(entries, tests, strict=True):
            latency = latencies[subject.key]
            costs: dict[str, Any] = {"latency_ms": latency.median, "p10": latency.p10, "p90": latency.p90}
            costs |= {"size_bytes": latency.size_bytes, "memory_bytes": latency.memory_bytes}
            costs |= {"energy_mj": latency.energy_mj} if latency.energy_mj is not None else {}
            layers = {"layers": slowest_nodes(subject, args.threads, args.layers)} if args.layers else {}
            found.append({**facts, "runtime": subject.runtime, **costs, **layers, **(test(reporter) if test else {})})
    settings = table_header(runtimes[0], args.threads, args.device)
    return {"networks": found, "data": args.data, "settings": {**settings, "runtimes": runtimes}}


def _entry(key: str, source: str, runtime: str, folder: Path, data: str | None) -> tuple[Subject, dict[str, Any]]:
    """Return the file of a source for a runtime, exported if there is none, and what is known of the network."""
    from nas.cli.show_exported import find_exported
    from nas.devices.runtimes import find_runtime, precision_of
    from nas.latency.side_by_side import exported_file, exported_subject, onnx_subject
    from nas.networks.exported_folder import exported_fit, load_exported
    from nas.networks.network import build_seeded, totals, trace
    from nas.spaces.yaml_format import load_architecture
    from nas.training.deployed_network import check_deployable

    found, card = find_exported(source), dict[str, Any]()
    if found is not None and found.suffix == ".onnx":
        return onnx_subject(key, found, runtime, folder), {"name": source, "notes": [], "fit": "crop"}
    notes, place = [], None
    if found is not None and found.name == "card.json":
        place = found.parent
        arch, network, card = load_exported(place)
    else:
        arch = load_architecture(source)
        network, notes = build_seeded(arch, 0), ["not trained"]
    check_deployable(arch, runtime)
    whole = totals(trace(arch))
    fit = exported_fit(card)
    facts: dict[str, Any] = {
        "name": source,
        "architecture": arch.digest,
        "params": whole.params,
        "macs": whole.macs,
        "recorded": {key: value for key, value in card.items() if key.startswith("test_") and isinstance(value, float)},
        "notes": notes,
        "fit": fit,
    }
    file = place / f"model{find_runtime(runtime).suffix}" if place else None
    if file is not None and file.is_file() and "onnx" not in card:
        return exported_file(key, file, arch.input_shape, runtime, folder), facts
    images = _ranges(runtime, data, arch, fit)
    if images is None and precision_of(runtime) == "int8":
        notes.append("its ranges are random, without --data")
    return exported_subject(key, network, arch.input_shape, runtime, folder, images), facts


def _ranges(runtime: str, data: str | None, arch: Any, fit: str) -> Tensor | None:
    """Return the images that decide the ranges of a network in int8; None without --data or in other precisions."""
    from nas.devices.runtimes import precision_of
    from nas.training.deployed_network import calibration_images
    from nas.training.tasks.classification import Classification

    if data is None or precision_of(runtime) != "int8":
        return None
    return calibration_images(Classification.load(data, fit=fit).for_input(arch.input), arch.resolution)


def _test_of(subject: Subject, data: str | None, fit: str) -> Callable[[Reporter], dict[str, float]] | None:
    """Return what tests a file on the test images; None without --data, or if its runtime does not run here.

    Raises DataError before anything is measured if the file is none for these images and classes.
    """
    from fractions import Fraction

    import torch

    from nas.architecture import InputFormat
    from nas.devices.runtimes import computes, make_runtime
    from nas.errors import DataError, DeviceError
    from nas.training.deployed_network import DeployedNetwork
    from nas.training.tasks.classification import Classification

    if data is None or not computes(subject.runtime):
        return None
    try:
        make_runtime(subject.runtime)
    except DeviceError:
        return None
    if len(subject.shapes) != 1 or len(subject.shapes[0]) != 4 or subject.shapes[0][0] != 1:
        shown = ", ".join("x".join(map(str, shape)) for shape in subject.shapes)
        raise DataError(f"{subject.path.name} takes {shown}, not one image 1xCxHxW", where="--data")
    channels, height, width = subject.shapes[0][1:]
    task = Classification.load(data, fit=fit).for_input(InputFormat(channels, Fraction(width, height)))
    network = DeployedNetwork(subject.runtime, subject.path, (channels, height, width))
    task.check_outputs(network(torch.zeros(1, channels, height, width)), subject.path.name)

    def test(reporter: Reporter) -> dict[str, float]:
        images = task.test_set(height, reporter)
        with reporter.task(f"testing {subject.runtime} on {len(images)} images", 1) as advance:
            accuracy = task.evaluate(network, images, torch.device("cpu")).accuracy
            advance(1)
        return {"test_accuracy": accuracy}

    return test


def print_result(result: dict[str, Any]) -> None:
    """Print a table of the networks, with latencies relative to the first one."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from nas.utils.units import format_count, format_latency

    networks, settings = result["networks"], result["settings"]
    with_energy = any("energy_mj" in each for each in networks)
    table = Table("network", "runtime", box=SIMPLE_HEAD, pad_edge=False)
    energy = ("energy",) if with_energy else ()
    for name in ("latency", "ratio", "80% of calls", "file", "memory", *energy, "params", "MACs", "accuracy"):
        table.add_column(name, justify="right")
    first = networks[0]["latency_ms"]
    for each in networks:
        span = f"{format_latency(each['p10'])} to {format_latency(each['p90'])}"
        memory = f"{each['memory_bytes'] / 1e6:.1f} MB" if each["memory_bytes"] else ""
        joules = (f"{each['energy_mj']:.3g} mJ" if "energy_mj" in each else "",) if with_energy else ()
        counts = (format_count(each[key]) if key in each else "" for key in ("params", "macs"))
        accuracy = f"{each['test_accuracy']:.1%}" if "test_accuracy" in each else ""
        ratio, size = f"{each['latency_ms'] / first:.2f}", f"{each['size_bytes'] / 1e6:.2f} MB"
        latency = format_latency(each["latency_ms"])
        table.add_row(each["name"], each["runtime"], latency, ratio, span, size, memory, *joules, *counts, accuracy)
    Console(width=150).print(table)
    threads = "1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    print(f"device   {settings.get('host') or settings['device']['processor']}, {threads}, batch size 1, in turns")
    for each in networks:
        for node in each.get("layers", []):
            shown = f"{format_latency(node['ms'])} {node['share']:4.0%}  {node['op']:<20} {node['name']}"
            print(f"layer    {each['name']} in {each['runtime']}: {shown}")
        for note in each["notes"]:
            print(f"note     {each['name']} in {each['runtime']}: {note}")
