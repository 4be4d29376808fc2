"""The class of an exported network: its stages by name, and how they follow each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nas.architecture import Architecture, Shape
from nas.networks.block_schema import arguments, keywords, takes_maps
from nas.networks.network import Layer, Placed, in_channels, is_plain, output_shapes, walk


def network_class(arch: Architecture, names: Mapping[str, str]) -> str:
    """Return the source of the classes `Network` and `FeatureMaps`.

    Args:
        arch: The architecture.
        names: The expression for the class of each block.
    """
    slots: list[list[Placed]] = [[] for _ in arch.slots]
    for number, block in walk(arch):
        slots[number].append(block)
    stages, neck, (head,) = slots[: len(arch.stages)], slots[len(arch.stages) : -1], slots[-1]
    full = [number for number, blocks in enumerate(stages) if blocks]  # a depth of 0 leaves no blocks
    made = [f"self.stage{number} = nn.Sequential({_calls(stages[number], names)})" for number in full]
    made.append(f"self.head = {_placed_call(head, names, of_head=True)}")  # before the neck, as in `MultiMapNetwork`
    made += [f"self.neck{number} = nn.ModuleList([{_calls(blocks, names)}])" for number, blocks in enumerate(neck)]
    tapped = feature_stages(arch, stages)
    parameter = ", num_classes: int = NUM_CLASSES" if classes_of(arch) else ""
    lines = [
        "class Network(nn.Module):",
        f'    """{_about(arch)}"""',
        f"    def __init__(self{parameter}) -> None:",
        *_indented(["super().__init__()", *made, "with_first_weights(self)"]),
        *_forward(arch, full, neck, head),
        *_forward_features(arch, stages, full, tapped),
        "class FeatureMaps(nn.Module):",
        '    """A network without its head: its feature maps, the finest first."""',
        "    def __init__(self, network: Network):",
        *_indented(["super().__init__()", "self.network = network"]),
        "    def forward(self, x: Tensor) -> list[Tensor]:",
        '        """Return `forward_features` of the network."""',
        "        return self.network.forward_features(x)",
    ]
    return "\n".join(lines)


def classes_of(arch: Architecture) -> int:
    """Return the number of classes of an architecture; 0 if its head has none."""
    return int(arguments(arch.head).get("num_classes", 0))


def feature_stages(arch: Architecture, stages: Sequence[Sequence[Placed]]) -> list[int]:
    """Return the stages whose maps are features: the taps, or else the last one of each resolution."""
    if arch.taps:
        return list(arch.taps)
    sizes = [(number, _out_shape(blocks)[1:]) for number, blocks in enumerate(stages) if blocks]
    return [list(group)[-1][0] for _, group in itertools.groupby(sizes, lambda entry: entry[1])]


def _out_shape(blocks: Sequence[Placed]) -> Shape:
    return blocks[-1].maps[-1]


def _about(arch: Architecture) -> str:
    return "Stages of blocks, " + ("a neck, and a head." if arch.neck else "and a head.")


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"        {line}" for line in lines]


def _calls(blocks: Sequence[Placed], names: Mapping[str, str]) -> str:
    """Return the calls that make blocks. Equal ones that follow each other become a loop."""
    parts = []
    for call, group in itertools.groupby(_placed_call(block, names) for block in blocks):
        count = len(list(group))
        parts.append(call if count == 1 else f"*[{call} for _ in range({count})]")
    return ", ".join(parts)


def _placed_call(block: Placed, names: Mapping[str, str], of_head: bool = False) -> str:
    """Return the expression that makes a block at its place."""
    calls = [block_call(layer, names, of_head) for layer in block.layers]
    return f"EachMap([{', '.join(calls)}])" if block.for_each_map else calls[0]


def block_call(layer: Layer, names: Mapping[str, str], of_head: bool = False) -> str:
    """Return the expression that makes the block of a layer. A head's number of classes is a variable."""
    channels: Any = in_channels(layer)
    first = channels if takes_maps(layer.spec.op) else channels[0]
    given = {key: repr(value) for key, value in layer.spec.args}
    if of_head and "num_classes" in keywords(layer.spec.op):
        given["num_classes"] = "num_classes"
    ordered = [f"{key}={given[key]}" for key in keywords(layer.spec.op) if key in given]
    args = ", ".join([repr(first), *ordered])
    return f"{names[layer.spec.op]}({args})"


def _forward(arch: Architecture, full: Sequence[int], neck: Sequence[Sequence[Placed]], head: Placed) -> list[str]:
    """Return the method `forward`."""
    shapes = output_shapes(head.layers[0])
    kind = "Tensor" if len(shapes) == 1 else f"tuple[{', '.join(['Tensor'] * len(shapes))}]"
    shown = ", ".join(str(("B", *shape)).replace("'", "") for shape in shapes)
    body = [f'"""(B, {", ".join(map(str, arch.input_shape))}) -> {shown}."""', *_stages(full, arch.taps)]
    if not is_plain(arch):
        body += [] if arch.taps else ["maps = [x]"]
        for number, blocks in enumerate(neck):
            body += [f"maps = self.neck{number}[{position}](maps)" for position in range(len(blocks))]
    body += [f"output: {kind} = self.head({'[x]' if is_plain(arch) else 'maps'})", "return output"]
    return [f"    def forward(self, x: Tensor) -> {kind}:", *_indented(body)]


def _stages(full: Sequence[int], taps: Sequence[int]) -> list[str]:
    """Return the calls of stages. The maps after some of them are kept."""
    lines = ["maps = []"] if taps else []
    for number in sorted({*full, *taps}):
        lines += [f"x = self.stage{number}(x)"] if number in full else []
        lines += ["maps.append(x)"] if number in taps else []
    return lines


def _forward_features(
    arch: Architecture, stages: Sequence[Sequence[Placed]], full: Sequence[int], tapped: Sequence[int]
) -> list[str]:
    """Return the method `forward_features`."""
    shapes = [_out_shape(next(blocks for blocks in stages[number::-1] if blocks)) for number in tapped]
    rows = [f"        {shape[0]} channels at stride {round(arch.input_shape[1] / shape[1])}" for shape in shapes]
    body = ['"""Return the feature maps, the finest first.', "", *rows, '        """']
    body += [*_stages([number for number in full if number <= max(tapped)], tapped), "return maps"]
    return ["    def forward_features(self, x: Tensor) -> list[Tensor]:", *_indented(body)]
