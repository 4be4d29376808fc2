"""`nas show`: print a search space or a network."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.cli import show_exported, show_latency
from nas.utils.reporting import Reporter

HELP = "print the choices and size of a search space, or the layers and costs of a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name of a space or network, a YAML or JSON file, an ONNX file, or an exported folder",
    )
    parser.add_argument(
        "--resolution",
        metavar="PX",
        help="input resolution in pixels; of a space also several, as 96,128 (default: that of the network or space)",
    )
    parser.add_argument("--svg", metavar="FILE", help="write a diagram of the network to this file")
    show_latency.add_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the space or the network as a JSON-ready mapping."""
    from nas.errors import UsageError, located
    from nas.spaces.resolutions import as_rectangle, at_resolutions
    from nas.spaces.yaml_format import load_space
    from nas.utils.units import parse_resolutions

    sizes = parse_resolutions(args.resolution) if args.resolution is not None else ()
    if (exported := show_exported.find_exported(args.name)) is not None:
        return _exported(args, exported, _only(sizes, args.name))
    space = as_rectangle(load_space(args.name))
    if not space.is_network:
        space = at_resolutions(space, sizes)
        if args.svg is not None:
            raise UsageError(f"applies to networks only, and '{args.name}' is a search space", key="svg")
        return {**_space(space), **show_latency.run(args, space, reporter)}
    for flag in show_latency.given(args):
        raise UsageError(f"{flag}: applies to search spaces only, and '{args.name}' is a network")
    arch, size = space.decode({}), _only(sizes, args.name)
    arch = arch.sized(size) if size else arch
    with located(args.name):
        result = _network(space.name, space.about, space.source, arch)
    return {**result, "svg": _draw(arch, space.name, Path(args.svg))} if args.svg is not None else result


def _only(sizes: tuple[int | str, ...], name: str) -> int | str | None:
    """Return the only resolution in pixels, None without one. Raises UsageError for several of the network `name`."""
    from nas.errors import UsageError

    if len(sizes) > 1:
        rule = f"applies to search spaces only if it lists several, and '{name}' is a network"
        raise UsageError(rule, key="resolution", value=",".join(map(str, sizes)))
    return sizes[0] if sizes else None


def _exported(args: argparse.Namespace, path: Path, size: int | str | None) -> dict[str, Any]:
    """Return the network of a card, or the nodes of an ONNX file. Nothing of it is executed."""
    from nas.errors import UsageError
    from nas.training.job import read_architecture

    for flag in show_latency.given(args):
        raise UsageError(f"{flag}: applies to search spaces only, and '{args.name}' is a network")
    if path.suffix == ".onnx":
        if args.svg is not None:
            raise UsageError(f"cannot draw an ONNX file: '{args.name}'", key="svg")
        return show_exported.describe_onnx(path, size)
    arch = read_architecture(str(path))
    arch = arch.sized(size) if size else arch
    name = path.resolve().parent.name if path.name == "card.json" else path.stem
    result = _network(name, "", "", arch)
    return {**result, "svg": _draw(arch, result["name"], Path(args.svg))} if args.svg is not None else result


def _space(space: Any) -> dict[str, Any]:
    from nas.spaces.resolutions import sizes_of

    return {
        "name": space.name,
        "about": space.about,
        "source": space.source,
        "resolution": sizes_of(space),
        "channels": space.input.channels,
        "size": space.size,
        "choices": {key: list(values) for key, values in space.choices.items()},
        "stages": [_slot(slot) for slot in space.slots],
    }


def _slot(slot: Any) -> dict[str, Any]:
    return {
        "stage": slot.name,
        **({"tap": True} if slot.tap else {}),
        "blocks": [{"block": op.label, **{key: list(values) for key, values in op.args}} for op in slot.operators],
        "depth": list(slot.depth),
        "arguments": {key: list(values) for key, values in slot.args},
        "per_layer": sorted(slot.per_layer),
        "size": slot.size,
    }


_COSTS = ("params", "macs", "activations", "memory_access", "element_wise_access", "peak_activation")


def _network(name: str, about: str, source: str, arch: Any) -> dict[str, Any]:
    from nas.networks.detectors.export import describe_detector
    from nas.networks.guidelines import guidelines
    from nas.networks.network import input_shapes, layer_slots, output_shapes, totals, trace

    layers = trace(arch)
    whole = totals(layers)
    return {
        "name": name,
        "about": about,
        "source": source,
        "architecture": arch.digest,
        "resolution": arch.input_size,
        "channels": arch.input.channels,
        **({"taps": list(arch.taps)} if arch.taps else {}),
        **describe_detector(arch),
        **{key: getattr(whole, key) for key in _COSTS},
        "arithmetic_intensity": whole.arithmetic_intensity,
        "guidelines": [{**asdict(rule), "verdict": rule.verdict} for rule in guidelines(layers)],
        "layers": [
            {
                "place": place,
                "block": layer.spec.to_dict(),
                "in": [list(shape) for shape in input_shapes(layer)],
                "out": shapes[0] if len(shapes := [list(shape) for shape in output_shapes(layer)]) == 1 else shapes,
                **{key: getattr(layer, key) for key in _COSTS},
            }
            for place, layer in zip(layer_slots(arch), layers, strict=True)
        ],
    }


def _draw(arch: Any, name: str, path: Path) -> str:
    from nas.errors import UsageError
    from nas.networks.diagram import network_svg

    try:
        path.write_text(network_svg(arch, name), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", key="svg") from error
    return str(path)


def print_result(result: dict[str, Any]) -> None:
    """Print the result as tables."""
    from rich.console import Console

    console = Console()
    if result.get("format") == "onnx":
        show_exported.print_onnx(result, console)
        return
    if result["about"]:
        console.print(f"{result['name']}: {result['about']}", highlight=False)
    if "layers" in result:
        _print_network(result, console)
    else:
        _print_space(result, console)


def _print_space(result: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    table = Table("stage", "blocks", "depth", "choices", "variants")
    for stage in result["stages"]:
        blocks = [_words(block["block"], {k: v for k, v in block.items() if k != "block"}) for block in stage["blocks"]]
        arguments = "\n".join(f"{key} {_values(values)}" for key, values in stage["arguments"].items())
        name = stage["stage"] + (" (tap)" if stage.get("tap") else "")
        table.add_row(name, "\n".join(blocks), _values(stage["depth"]), arguments, f"{stage['size']:,}")
    console.print(table)
    resolution = _values(result["resolution"])
    console.print(
        f"{resolution} px, {len(result['choices'])} choices, exact size {result['size']:,} ({result['size']:.2e})",
        highlight=False,
    )
    if "latency" in result:
        show_latency.print_result(result["latency"], console)


def _print_network(result: dict[str, Any], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nas.utils.units import format_count

    table = Table("place", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("block", min_width=18)
    table.add_column("out", no_wrap=True)
    for title in ("params", "MACs", "acts", "memory"):
        table.add_column(title, justify="right")
    for layer in result["layers"]:
        block = {key: value for key, value in layer["block"].items() if key != "block"}
        costs = (format_count(layer[key]) for key in ("params", "macs", "activations", "memory_access"))
        words = _words(layer["block"]["block"], {key: [value] for key, value in block.items()})
        table.add_row(layer["place"], words, _shapes(layer["out"]), *costs)
    console.print(table)
    text = (
        f"{result['resolution']} px, {result['params']:,} parameters, {result['macs']:,} MACs, "
        f"{result['activations']:,} activations\n"
        f"{result['memory_access']:,} elements read and written, "
        f"{result['arithmetic_intensity']:.1f} MACs per element\n"
        f"{4 * result['peak_activation'] / 1e6:.2f} MB of feature maps at the peak (float32)\n"
        f"architecture {result['architecture']}"
    )
    console.print(text, highlight=False)
    if select := result.get("select_boxes"):
        console.print(
            f"post-processing: the {select['candidates']} most likely of {select['predictions']:,} boxes, "
            f"at most {select['kept']} without overlaps above {select['overlap']:g}; it has no parameters",
            highlight=False,
        )
    table = Table("guideline", "value", "limit", "verdict", "meaning of the value", box=SIMPLE_HEAD)
    for rule in result["guidelines"]:
        numbers = (f"{rule['value']:.3f}", f"{rule['threshold']:.3f}")
        table.add_row(rule["name"], *numbers, rule["verdict"], rule["about"])
    console.print(table)
    if "svg" in result:
        console.print(f"diagram  {result['svg']}", highlight=False)


def _shapes(out: list[Any]) -> str:
    """Return the output shape of a layer in words, or those of its outputs, one on each line."""
    return "\n".join("x".join(map(str, shape)) for shape in (out if isinstance(out[0], list) else [out]))


def _words(name: str, arguments: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={_values(values)}" for key, values in arguments.items())])


def _values(values: list[Any]) -> str:
    words = [str(value).lower() if isinstance(value, bool) else f"{value}" for value in values]
    return words[0] if len(words) == 1 else "{" + ", ".join(words) + "}"
