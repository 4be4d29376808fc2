"""Network diagram: an SVG with one box per block, whose height shows the resolution and whose width the channels."""

from __future__ import annotations

from colorsys import hls_to_rgb
from dataclasses import dataclass
from itertools import groupby
from math import log2, sqrt
from xml.sax.saxutils import escape
from zlib import crc32

from nas.architecture import Architecture
from nas.networks.blocks import BLOCKS
from nas.networks.network import Layer, input_shapes, layer_slots, output_shapes, totals, trace

MARGIN, GAP, STAGE_GAP = 24.0, 4.0, 14.0
TOP, TALLEST, LABELS, LEGEND = 96.0, 150.0, 190.0, 30.0
LEGEND_STEP, CHARACTER = 130.0, 7.0
"""Lengths in pixels. TOP, TALLEST, LABELS and LEGEND are the heights of titles and braces, boxes, labels and legend."""


@dataclass(frozen=True)
class _Box:
    layer: Layer
    stage: str
    x: float
    width: float
    height: float

    @property
    def y(self) -> float:
        return TOP + (TALLEST - self.height) / 2

    @property
    def right(self) -> float:
        return self.x + self.width


def network_svg(arch: Architecture, name: str) -> str:
    """Return an SVG diagram of `arch` with the title `name`.

    The height of a box grows with the logarithm of the block's output resolution, the width with the square root
    of its channels. Each block family has the same color in all diagrams. The tooltip of a box shows shapes and
    costs.
    """
    layers = trace(arch)
    boxes = _boxes(arch, layers)
    families = list(dict.fromkeys(layer.spec.op for layer in layers))
    whole = totals(layers)
    title = f"{name}: {arch.input_size} px, {whole.params:,} parameters, {whole.macs:,} MACs"
    width = max(boxes[-1].right, MARGIN + CHARACTER * len(title), MARGIN + LEGEND_STEP * len(families)) + MARGIN
    height = TOP + TALLEST + LABELS + LEGEND
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(name)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        f'<text x="{MARGIN}" y="24" font-size="14">{escape(title)}</text>',
        *(_box_svg(box) for box in boxes),
        *(_brace_svg(stage, list(members)) for stage, members in groupby(boxes, key=lambda box: box.stage)),
        *(_legend_svg(index, family, height - LEGEND / 2) for index, family in enumerate(families)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _boxes(arch: Architecture, layers: tuple[Layer, ...]) -> list[_Box]:
    stages = [name.removeprefix("stage") for name in layer_slots(arch)]
    boxes: list[_Box] = []
    x = MARGIN
    for layer, stage in zip(layers, stages, strict=True):
        if boxes:
            x = boxes[-1].right + (GAP if boxes[-1].stage == stage else STAGE_GAP)
        shape = output_shapes(layer)[0]
        pixels, channels = (shape[1], shape[0]) if len(shape) == 3 else (1, shape[-1])
        height = 14 + (TALLEST - 14) * min(1.0, log2(pixels + 1) / log2(arch.resolution + 1))
        boxes.append(_Box(layer, stage, x, 10 + 1.2 * sqrt(channels), height))
    return boxes


def _box_svg(box: _Box) -> str:
    layer = box.layer
    shapes, out = (
        ", ".join("x".join(map(str, shape)) for shape in side) for side in (input_shapes(layer), output_shapes(layer))
    )
    arguments = " ".join(f"{key}={value}" for key, value in layer.spec.args)
    tip = (
        f"{layer.spec.op} {arguments}: {shapes} -> {out}, "
        f"{layer.params:,} parameters, {layer.macs:,} MACs, {layer.memory_access:,} elements moved"
    )
    middle, below = box.x + box.width / 2 + 4, TOP + TALLEST + 8
    return (
        f'<g><rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="2" '
        f'fill="{_color(layer.spec.op)}" stroke="#333" stroke-width="0.7"><title>{escape(tip)}</title></rect>'
        f'<text transform="translate({middle:.1f} {below:.1f}) rotate(-90)" text-anchor="end">'
        f"{escape(_label(layer))}</text></g>"
    )


def _label(layer: Layer) -> str:
    """Return the label of a box: family, given arguments in short form, and output channels."""
    given = dict(layer.spec.args)
    short = {"kernel_size": "k", "expand_ratio": "e", "groups": "g", "num_layers": "n", "stride": "/"}
    words = [f"{mark}{given[key]:g}" for key, mark in short.items() if key in given]
    shape = output_shapes(layer)[0]
    return " ".join([layer.spec.op, *words, f"{shape[0] if len(shape) == 3 else shape[-1]}"])


def _brace_svg(stage: str, boxes: list[_Box]) -> str:
    """Return the brace above the boxes of a stage, with the stage's name and output size."""
    left, right, y = boxes[0].x, boxes[-1].right, TOP - 8
    middle, bend = (left + right) / 2, min(8.0, (right - left) / 4)
    size = ", ".join("x".join(map(str, shape[1:])) for shape in output_shapes(boxes[-1].layer) if len(shape) != 2)
    path = (
        f"M{left:.1f} {y} q0 -6 {bend:.1f} -6 H{middle - bend:.1f} q{bend:.1f} 0 {bend:.1f} -6 "
        f"q0 6 {bend:.1f} 6 H{right - bend:.1f} q{bend:.1f} 0 {bend:.1f} 6"
    )
    text = f'<text transform="translate({middle:.1f} {y - 15}) rotate(-35)" font-size="10">'
    words = f"{stage}: {size}" if size else stage
    return f'<g><path d="{path}" fill="none" stroke="#666"/>{text}{words}</text></g>'


def _legend_svg(index: int, family: str, y: float) -> str:
    x = MARGIN + index * LEGEND_STEP
    return (
        f'<g><rect x="{x}" y="{y - 9}" width="11" height="11" fill="{_color(family)}" stroke="#333"/>'
        f'<text x="{x + 16}" y="{y}">{escape(family)}</text></g>'
    )


def _color(family: str) -> str:
    """Return the color of a block family. Successive families differ in hue by the golden ratio."""
    known = list(BLOCKS)  # blocks of other packages follow, at an index that depends on their name only
    index = known.index(family) if family in known else len(known) + crc32(family.encode()) % len(known)
    red, green, blue = hls_to_rgb(index * 0.618034 % 1, 0.62 + 0.12 * (index % 2), 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
