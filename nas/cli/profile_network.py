"""`nas profile NETWORK`: measures one exported network, and its nodes where the runtime reports them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.utils.reporting import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure an ONNX file, or the network of an exported folder, and return the latency. Raises NasError."""
    from nas.cli.show_exported import find_exported
    from nas.errors import UsageError
    from nas.latency.graph_latency import measure_detector, measure_exported, measure_onnx
    from nas.latency.profiler import table_header

    found = find_exported(args.network)
    if found is None or (found.suffix == ".json" and found.name != "card.json"):
        rule = "must be an ONNX file, an exported folder or a run folder; --space NAME profiles a space"
        raise UsageError(rule, where=args.network)
    measure = measure_exported if found.name == "card.json" else measure_onnx
    place = found.parent if found.name == "card.json" else found
    measured = measure(place, args.runtime, args.threads, args.device, reporter)
    parts = None
    if found.name == "card.json":
        parts = measure_detector(place, args.runtime, args.threads, args.device, reporter)
    return {
        "network": str(place),
        "latency_ms": measured.latency.median,
        "latency": asdict(measured.latency),
        **({"network_ms": parts.network, "post_ms": parts.post, "both_ms": parts.both} if parts else {}),
        "nodes": list(measured.nodes),
        "notes": list(measured.notes),
        "settings": table_header(args.runtime, args.threads, args.device),
    }


def print_result(result: dict[str, Any]) -> None:
    """Print the time of each node, then the latency and where it was measured."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from nas.utils.units import format_latency

    latency, settings = result["latency"], result["settings"]
    if result["nodes"]:
        whole = sum(node["ms"] for node in result["nodes"])
        table = Table("node", "type", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("time", justify="right")
        table.add_column("share", justify="right")
        for node in result["nodes"]:
            table.add_row(node["name"], node["op"], format_latency(node["ms"]), f"{node['ms'] / max(whole, 1e-9):.1%}")
        Console().print(table)
    low, high = format_latency(latency["p10"]), format_latency(latency["p90"])
    print(f"network  {Path(result['network'])}")
    print(f"latency  {format_latency(latency['median'])} ({low} to {high} in 80% of {latency['samples']} calls)")
    if "both_ms" in result:
        print(f"latency  {spell_parts(result)}, measured alternately")
    threads = "1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    runtime = f"{settings['runtime']} {settings['runtime_version']}"
    print(f"device   {settings.get('host') or settings['device']['processor']}, {runtime}, {threads}, batch size 1")
    if result["nodes"]:
        print("nodes    measured one by one by the runtime's profiler, which slows them down")
    for note in result["notes"]:
        print(f"note     {note}")


def spell_parts(result: dict[str, Any]) -> str:
    """Return the three latencies of a detector in words."""
    from nas.utils.units import format_latency

    network, post, both = (format_latency(result[f"{part}_ms"]) for part in ("network", "post", "both"))
    return f"network {network} | post-processing {post} | both {both}"
