"""Post-processing of a detector: the layer that it makes in a latency table, and a network with it.

It is no block of an architecture: training needs the outputs of the head. It follows from the head, which declares
`coding`, see `SelectBoxes`, and `anchors(sizes, image)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import coding_of, is_detector_head
from nas.networks.blocks.select_boxes import SelectBoxes
from nas.networks.network import Layer, MultiMapNetwork, in_channels, input_shapes, make_block, output_shapes, trace

SELECT = "select_boxes"
"""The name of the post-processing in latency tables."""


def post_layer(layer: Layer) -> Layer | None:
    """Return the post-processing after a layer as a layer of a latency table; None if it is no head of a detector."""
    coding = coding_of(layer.spec.op)
    return None if coding is None else _post_layer(coding, output_shapes(layer))


@lru_cache(maxsize=10_000)
def _post_layer(coding: str, shapes: tuple[tuple[int, ...], ...]) -> Layer:
    spec = BlockSpec.of(SELECT, {"coding": coding})
    select = SelectBoxes(tuple(shape[0] for shape in shapes), coding=coding)  # type: ignore[arg-type]
    out: tuple[tuple[int, ...], ...] = ((select.kept, 4), (select.kept,), (select.kept,), ())
    return Layer(spec, shapes, out, 0, 0, 0, 0, 0, 0, ())  # type: ignore[arg-type]


def layer_module(layer: Layer) -> nn.Module:
    """Return the module of a layer, of a block or of the post-processing. Raises SpaceError as `make_block`."""
    if layer.spec.op == SELECT:
        arguments: Any = layer.spec.kwargs
        return SelectBoxes(in_channels(layer), **arguments)
    return make_block(layer.spec, in_channels(layer))


class Detector(nn.Module):
    """A network with its post-processing.

    Args:
        network: A network with a head that has `coding` and `anchors`.
        select: The post-processing, without anchors.
        sizes: Height and width of each map that the head reads.
        image: Height and width of the image in pixels.
    """

    outputs = 4

    def __init__(self, network: Any, select: SelectBoxes, sizes: Sequence[tuple[int, int]], image: tuple[int, int]):
        super().__init__()
        self.network, self.select = network, select
        select.place(network.head.anchors(sizes, image), image)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> corners (B, K, 4), scores (B, K), classes (B, K), and how many of them count (B,)."""
        boxes, classes = self.network(x)
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.select([boxes, classes])
        return found


def is_detector(arch: Architecture) -> bool:
    """Return whether post-processing is known for a network."""
    return is_detector_head(arch.head.op)


def post_of(arch: Architecture) -> tuple[Layer, list[tuple[int, int]]]:
    """Return the post-processing of a network, and height and width of each map that its head reads.

    Raises SpaceError if its head declares none.
    """
    head = trace(arch)[-1]
    post = post_layer(head)
    if post is None:
        raise SpaceError("has no post-processing: it predicts no boxes", where="head", key="block", value=arch.head.op)
    return post, [(shape[1], shape[2]) for shape in input_shapes(head)]


def with_post_processing(arch: Architecture, network: nn.Module) -> Detector:
    """Return the network of an architecture with its post-processing. Raises SpaceError as `post_of`."""
    post, sizes = post_of(arch)
    select = layer_module(post)
    assert isinstance(select, SelectBoxes) and isinstance(network, MultiMapNetwork)
    device = next(network.parameters()).device
    return Detector(network, select, sizes, arch.input_shape[1:]).to(device)
