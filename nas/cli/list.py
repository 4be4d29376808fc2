"""`nas list`: list shipped files and registered names."""

from __future__ import annotations

import argparse
from typing import Any

from nas.utils.reporting import Reporter

HELP = "list networks, search spaces, latency tables, blocks, runtimes, controllers, presets and other names"
KINDS = (
    "networks",
    "spaces",
    "blocks",
    "runtimes",
    "controllers",
    "evaluators",
    "objectives",
    "forms",
    "presets",
    "tables",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"what to list: {', '.join(KINDS)}")


def run(args: argparse.Namespace, reporter: Reporter) -> Any:
    """Return a list of mappings, each with a "name"."""
    if args.kind in ("networks", "spaces"):
        return _files(args.kind == "networks")
    if args.kind == "tables":
        return _latency_tables(reporter)
    if args.kind == "presets":
        return _presets()
    return _entries(args.kind, reporter)


def _files(networks: bool) -> list[dict[str, Any]]:
    from nas.spaces.resolutions import sizes_of
    from nas.spaces.yaml_format import load_space, space_names

    found = [space for space in map(load_space, space_names()) if space.is_network == networks]
    if networks:
        return [_network(space) for space in found]
    return [
        {"name": space.name, "about": space.about, "size": space.size, "resolution": sizes_of(space)} for space in found
    ]


def _network(space: Any) -> dict[str, Any]:
    from nas.networks.network import output_shapes, totals, trace
    from nas.spaces.resolutions import sizes_of

    layers = trace(space.decode({}))
    whole = totals(layers)
    return {
        "name": space.name,
        "kind": "detector" if len(output_shapes(layers[-1])) > 1 else "classifier",
        "params": whole.params,
        "macs": whole.macs,
        "memory_access": whole.memory_access,
        "resolution": sizes_of(space)[0],
        "published_top1": space.published_top1,
        "published_ap": space.published_ap,
        "published_source": space.published_source,
        "about": space.about,
        "source": space.source,
    }


def _latency_tables(reporter: Reporter) -> list[dict[str, Any]]:
    from nas.errors import TableError
    from nas.latency.catalog import all_tables, describe
    from nas.latency.table import LatencyTable

    found = []
    for name, path in all_tables():
        try:
            found.append(describe(name, LatencyTable.open(path)))
        except TableError as error:
            reporter.warn(str(error))
    return found


def _presets() -> list[dict[str, Any]]:
    from nas.scaling.presets import PRESETS

    return [
        {"name": name, "about": preset.about, "source": preset.source, "networks": len(preset.points)}
        for name, preset in PRESETS.items()
    ]


def _entries(kind: str, reporter: Reporter) -> list[dict[str, Any]]:
    from nas.controllers import CONTROLLERS
    from nas.devices.runtimes import RUNTIMES
    from nas.evaluators import EVALUATORS
    from nas.networks.blocks import BLOCKS
    from nas.networks.forms import FORMS
    from nas.study.objectives import OBJECTIVES
    from nas.utils.registry import entries

    tables: dict[str, dict[str, Any]] = {
        "blocks": dict(BLOCKS),
        "runtimes": dict(RUNTIMES),
        "controllers": dict(CONTROLLERS),
        "evaluators": dict(EVALUATORS),
        "objectives": dict(OBJECTIVES),
        "forms": dict(FORMS),
    }
    found = entries(tables[kind], kind.removesuffix("s"), reporter.warn)
    plugged = any(origin for _, origin in found.values())
    return [
        {"name": name, "about": _describe(thing), **({"from": origin or "nas"} if plugged else {})}
        for name, (thing, origin) in found.items()
    ]


def _describe(thing: Any) -> str:
    """Return the first line of the docstring, after the arguments that a `functools.partial` binds."""
    settings = ", ".join(f"{key}={value}" for key, value in getattr(thing, "keywords", {}).items())
    line = ((getattr(thing, "func", thing).__doc__ or "").strip().splitlines() or [""])[0]
    return f"{settings}: {line}" if settings else line


def print_result(result: Any) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not result or "params" not in result[0]:
        columns = [column for column in result[0] if column not in ("path", "source")] if result else ["name"]
        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in result:
            table.add_row(*(f"{row[column]:.3g}" if column == "size" else str(row[column]) for column in columns))
    else:
        table = _networks_table(result)
    console.print(table)
    console.print(f"{len(result)} entries", highlight=False)


def _networks_table(result: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from nas.utils.units import format_count

    table = Table("network", "kind", "px", "parameters", "MACs", "memory access", "published", "source")
    for row in result:
        counts = (format_count(row[key]) for key in ("params", "macs", "memory_access"))
        published = "" if row["published_top1"] is None else f"top-1 {row['published_top1']:.1f} %"
        published = published if row["published_ap"] is None else f"AP {row['published_ap']:.1f} %"
        table.add_row(row["name"], row["kind"], str(row["resolution"]), *counts, published, row["published_source"])
    return table
