"""`nas profile --import`: a table that others published, as one of ours."""

from __future__ import annotations

import argparse
from typing import Any

from nas.progress import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Convert the files of one published table and return where it lies and how far it covers its space."""
    from pathlib import Path

    from nas.errors import UsageError
    from nas.latency import layer_name
    from nas.published import read_published, source_of, uncovered, write_table
    from nas.space_file import load_space
    from nas.tables import imported_path

    files = [Path(name) for name in args.imported]
    published = read_published(files)
    source = source_of(published, files[0].stem)
    path = Path(args.table) if args.table else imported_path(source.name)
    if path.resolve() in [file.resolve() for file in files]:
        raise UsageError(f"--table: is one of the files to import: {path}")
    table = write_table(published, source, path)
    space = load_space(published.family)
    lacking, layers = uncovered(table, space)
    if source.url == "unknown":
        reporter.warn(f"{path}: values that we do not know: device and runtime are not named in the files")
    for layer in lacking[:1]:
        name = layer_name(layer.spec, layer.in_shape)
        reporter.warn(f"{path}: lacks {len(lacking)} of {layers} layers of '{space.name}', the first {name}")
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
    """Print where the table lies, of which device it is, and which space it covers."""
    settings = result["settings"]
    print(f"table    {result['table']}, {result['rows']} rows")
    print(f"device   {settings['device']['processor']}, {settings['runtime']}")
    print(f"source   {settings['source']}, licence {settings['licence']}")
    print(f"covers   {result['covered']} of {result['layers']} layers of '{result['space']}'")
    for note in result["notes"]:
        print(f"note     {note}")
