"""`nas profile --import`: converts a published table, or the folder of a finished bundle, into a latency table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.utils.reporting import Reporter


def run(args: argparse.Namespace, reporter: Reporter, fill_table: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Import one bundle folder or the files of one published table.

    `fill_table` adds the bundle's samples to a table and returns the result, as for a live measurement.
    """
    from nas.errors import UsageError

    paths = [Path(name).expanduser() for name in args.imported]
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError("a folder must be imported alone", key="import", value=str(folders[0]))
    return _folder(folders[0], args, reporter, fill_table) if folders else _published(args, reporter)


def _folder(
    folder: Path, args: argparse.Namespace, reporter: Reporter, fill_table: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Add the samples that a device recorded in a bundle folder to the device's table."""
    from nas.latency.offline_bundle import read_bundle
    from nas.latency.profiler import make_header
    from nas.spaces.yaml_format import load_space

    about, worker = read_bundle(folder)
    space = load_space(str(folder / about["space"]))
    space = space.for_classes(about["classes"]) if about["classes"] else space
    settings = worker.settings
    header = make_header(
        worker.device, about["runtime"], settings["runtime_version"], about["threads"], settings["host"]
    )
    return fill_table(space, header, args, worker, reporter)


def _published(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Convert the files of a published table; return the table's path and how many layers of its space it covers."""
    from nas.errors import UsageError
    from nas.latency.catalog import check_name, imported_path
    from nas.latency.published import check_same_source, read_published, source_of, uncovered, write_table
    from nas.latency.rows import layer_name
    from nas.spaces.yaml_format import load_space

    files = [Path(name).expanduser() for name in args.imported]
    published = read_published(files)
    source = source_of(published, files[0].stem)
    if args.name is not None:
        check_name(args.name)
    path = Path(args.table).expanduser() if args.table else imported_path(args.name or source.name)
    if path.resolve() in [file.resolve() for file in files]:
        raise UsageError("is one of the files to import", key="table", value=str(path))
    if not args.replace:
        check_same_source(path, published, source)
    table = write_table(published, source, path)
    space = load_space(published.family)
    lacking, layers = uncovered(table, space)
    if source.url == "unknown":
        reporter.warn(f"{path}: unknown source: the files name neither device nor runtime")
    for layer in lacking[:1]:
        name = layer_name(layer.spec, layer.in_shape)
        reporter.warn(f"{path}: lacks {len(lacking)} of {layers} layers of '{space.name}', first {name}")
    return {
        "table": str(path),
        "imported": [str(file) for file in files],
        "rows": len(table.rows),
        "space": space.name,
        "layers": layers,
        "covered": layers - len(lacking),
        "notes": list(published.notes),
        "settings": table.header,
    }


def print_result(result: dict[str, Any]) -> None:
    """Print the table's path, its device and source, and how much of its space it covers."""
    settings = result["settings"]
    print(f"table    {result['table']}, {result['rows']} rows")
    print(f"device   {settings['device']['processor']}, {settings['runtime']}")
    print(f"source   {settings['source']}, license {settings['licence']}")
    print(f"covers   {result['covered']} of {result['layers']} layers of '{result['space']}'")
    for note in result["notes"]:
        print(f"note     {note}")
