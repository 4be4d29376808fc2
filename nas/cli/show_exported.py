"""`nas show` of an exported network: a folder with a card, or any ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any


def find_exported(name: str) -> Path | None:
    """Return the card of an exported folder or of a run, the JSON file of an architecture, or an ONNX file.

    A folder without a card counts as its only ONNX file. Returns None for a space or a network by name or YAML file.
    Raises RunError for another folder.
    """
    from nas.errors import RunError
    from nas.networks.exported_folder import exported_in
    from nas.spaces.yaml_format import space_names

    path = Path(name).expanduser()
    if path.suffix == ".onnx" or (path.suffix == ".json" and _is_architecture(path)):
        return path
    if not path.is_dir() or name in space_names():
        return None
    folder = exported_in(path)
    if (folder / "card.json").is_file():
        return folder / "card.json"
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 1:
        raise RunError(f"not an exported network: it has no card.json, and {len(files)} ONNX files", where=path)
    return files[0]


def _is_architecture(path: Path) -> bool:
    """Whether a JSON file is a card or an architecture. The stages of a search space are mappings, not lists."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    stages = data.get("stages") if isinstance(data, dict) else None
    is_listed = isinstance(stages, list) and all(isinstance(stage, list) for stage in stages)
    return isinstance(data, dict) and ("blocks" in data or is_listed)


def describe_onnx(path: Path, size: int | str | None) -> dict[str, Any]:
    """Return the layers and costs of an ONNX file as a JSON-ready mapping. Raises ExportError."""
    from nas.architecture import InputFormat, height_and_aspect
    from nas.networks.onnx_graph import read_graph

    sides = None
    if size is not None:
        height, aspect = height_and_aspect(size, path)
        sides = InputFormat(aspect=aspect).shape(height)[1:]
    graph = read_graph(path, sides)
    return {
        "name": path.name,
        "format": "onnx",
        "inputs": {name: list(shape) for name, shape in graph.inputs.items()},
        "params": sum(node.params for node in graph.nodes),
        "macs": sum(node.macs or 0 for node in graph.nodes),
        "not_counted": graph.not_counted,
        "notes": list(graph.notes),
        "layers": [asdict(node) for node in graph.nodes],
    }


def print_onnx(result: dict[str, Any], console: Any) -> None:
    """Print the layers of an ONNX file and their sums."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nas.utils.units import format_count

    table = Table("node", "type", "out", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("params", "MACs"):
        table.add_column(title, justify="right")
    for layer in result["layers"]:
        out = "x".join(map(str, layer["out_shape"])) if layer["out_shape"] else "?"
        macs = "-" if layer["macs"] is None else format_count(layer["macs"])
        table.add_row(layer["name"], layer["op"], out, format_count(layer["params"]), macs)
    console.print(table)
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result["inputs"].items())
    lines = [f"{result['name']}: {inputs}, {result['params']:,} parameters, {result['macs']:,} MACs", *result["notes"]]
    if result["not_counted"]:
        kinds = ", ".join(f"{count} {op}" for op, count in sorted(result["not_counted"].items()))
        lines.append(f"MACs are not counted for {kinds}")
    console.print("\n".join(lines), highlight=False)
