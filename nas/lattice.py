"""What a space can reach, stage by stage and shape by shape, without building a network.

The layers of a stage depend on the shape that enters it and on nothing else before, so all that a space of 10^18
architectures can reach is some thousands of layers, and sums over layers have exact extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nas.architecture import Architecture, BlockSpec, Scalar, Shape
from nas.errors import SpaceError
from nas.network import IMAGE_CHANNELS, Layer, traced
from nas.space import Choose, Slot, Space, Values, every, remembering


@dataclass(frozen=True)
class Path:
    """The best way found to a shape: its cost and its blocks, stage by stage."""

    cost: float
    stages: tuple[tuple[BlockSpec, ...], ...]


Frontier = dict[Shape, Path]
Cost = Callable[[Layer], float]


def reachable(space: Space) -> list[Layer]:
    """Return every layer that an architecture of `space` can have, each once.

    Raises SpaceError, with the file's stage, where one of them cannot be built.
    """
    found: dict[tuple[BlockSpec, object], Layer] = {}

    def visit(layer: Layer) -> float:
        found[layer.spec, layer.in_shape] = layer
        return 0.0

    best_path(space, visit)
    return list(found.values())


def best_path(space: Space, cost: Cost, largest: bool = False) -> tuple[float, Architecture]:
    """Return the architecture with the exactly smallest (or largest) sum of `cost` over its layers, and the sum."""
    sign = -1.0 if largest else 1.0

    def signed(layer: Layer) -> float:
        return sign * cost(layer)

    found: list[tuple[float, Architecture]] = []
    for resolution in space.resolution:
        frontier: Frontier = {(IMAGE_CHANNELS, resolution, resolution): Path(0.0, ())}
        for slot in space.stages:
            frontier = through_stage(slot, frontier, signed, space.name)
        for shape, path in frontier.items():
            for head in every(space.head.layers):
                layer = traced(head[0], (shape,), f"{space.name}, head")
                arch = Architecture(resolution, path.stages, layer.spec)
                found.append((path.cost + signed(layer), arch))
    total, arch = min(found, key=lambda pair: pair[0])
    return sign * total, arch


def through_stage(slot: Slot, frontier: Frontier, cost: Cost, where: str) -> Frontier:
    """Return the best path to each shape that can leave the stage."""
    leaving: Frontier = {}
    for options in stage_options(slot):
        for shape, entering in frontier.items():
            paths = {shape: Path(entering.cost, ())}
            for position, specs in enumerate(options):
                paths = _through_layer(specs, paths, cost, f"{where}, {_place(slot)}, layer {position}")
            for out, path in paths.items():
                _keep(leaving, out, Path(path.cost, (*entering.stages, tuple(s for (s,) in path.stages))))
    return leaving


def _through_layer(specs: list[BlockSpec], paths: Frontier, cost: Cost, where: str) -> Frontier:
    leaving: Frontier = {}
    for shape, path in paths.items():
        for spec in specs:
            layer = traced(spec, shape, where)
            if len(layer.out_shape) != 3:
                raise SpaceError(f"{where}: {spec.op} gives no feature map")
            _keep(leaving, layer.out_shape, Path(path.cost + cost(layer), (*path.stages, (layer.spec,))))
    return leaving


def _keep(frontier: Frontier, shape: Shape, path: Path) -> None:
    if shape not in frontier or path.cost < frontier[shape].cost:
        frontier[shape] = path


def stage_options(slot: Slot) -> Iterator[list[list[BlockSpec]]]:
    """Yield, for each way to choose what the stage shares, the blocks that each of its layers can be."""
    yield from every(lambda choose: _options(slot, choose))


def _options(slot: Slot, choose: Choose) -> list[list[BlockSpec]]:
    shared: dict[str, Scalar] = {}
    pick = remembering(choose, shared)
    depth = int(pick(f"{slot.name}.depth", slot.depth))

    def mixed(index: int, own: Choose) -> BlockSpec:
        def ask(key: str, values: Values) -> Scalar:
            return own(key, values) if key.startswith(f"{slot.name}.layer") else pick(key, values)

        return slot.layer(index, ask)

    return [list(every(lambda own, index=index: mixed(index, own))) for index in range(depth)]  # type: ignore[misc]


def _place(slot: Slot) -> str:
    return slot.name.replace("stage", "stage ")
