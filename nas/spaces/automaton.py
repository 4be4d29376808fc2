"""What a space can reach, layer by layer and shape by shape, without building a network.

The layers of a stage depend on the shape that enters it and on nothing else before, so all that a space of 10^18
architectures can reach is some thousands of layers, and sums over layers have exact extremes. `unroll` lays this out
as an automaton that reads a network layer by layer: every path through it is one canonical architecture and every
canonical architecture is one path, however many ways there are to spell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from nas.architecture import Architecture, BlockSpec, Scalar, Shape
from nas.errors import SpaceError
from nas.networks.network import IMAGE_CHANNELS, Layer, canonical, traced
from nas.spaces.search_space import Choose, Space, StageSpec, Values, ask_once, enumerate_choices

Cost = Callable[[Layer], float]
Choices = dict[str, Scalar]
State = tuple[Shape, frozenset[int]]
"""The shape, and which of the stage's `ways` fit the layers so far; none where the stage is over."""

RESOLUTION = -1
"""The `slot` of the first segment, which chooses the resolution."""
_OVER: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Step:
    """One way on from a state: the layer that it adds, None where the stage has no more, and the state after it."""

    layer: Layer | None
    after: int


@dataclass(frozen=True)
class LayerPosition:
    """One layer's place: `steps[state]` are the ways on from each state before it, no two of them alike.

    `slot` is the number of the stage, that of all stages for the head. A row is the number of a step where the
    states' steps are laid end to end.
    """

    slot: int
    steps: tuple[tuple[Step, ...], ...]

    @cached_property
    def rows(self) -> tuple[Step, ...]:
        """Every step, state after state."""
        return tuple(step for steps in self.steps for step in steps)

    @cached_property
    def row_of(self) -> dict[tuple[int, BlockSpec | None], int]:
        """The row of each (state, canonical block or None)."""
        keys = (
            (state, step.layer.spec if step.layer else None) for state, steps in enumerate(self.steps) for step in steps
        )
        return {key: row for row, key in enumerate(keys)}


@dataclass(frozen=True)
class SpaceAutomaton:
    """A space laid out: the resolution, every layer's place in order, the head. All paths start in state 0."""

    space: Space
    segments: tuple[LayerPosition, ...]

    @cached_property
    def walked(self) -> dict[int, dict[tuple[int, ...], tuple[list[int], int]]]:
        """What readers of encodings remember: for each slot, the rows and the state that a way to choose leads to."""
        return {}

    def architecture(self, rows: Sequence[int]) -> Architecture:
        """Return the canonical architecture of a path, given as the row of each segment."""
        stages: list[list[BlockSpec]] = [[] for _ in (*self.space.stages, self.space.head)]
        for segment, row in zip(self.segments[1:], rows[1:], strict=True):
            layer = segment.rows[row].layer
            if layer is not None:
                stages[segment.slot].append(layer.spec)
        resolution = self.space.resolution[rows[0]]
        return Architecture(resolution, tuple(map(tuple, stages[:-1])), stages[-1][0])

    def path(self, arch: Architecture) -> list[int]:
        """Return the row of each segment that `arch` takes. Raises SpaceError where the space does not hold it."""
        if arch.resolution not in self.space.resolution:
            raise SpaceError(f"{self.space.name}: offers no resolution of {arch.resolution} px")
        if len(arch.stages) != len(self.space.stages):
            raise SpaceError(f"{self.space.name}: has {len(self.space.stages)} stages: {len(arch.stages)}")
        arch = canonical(arch)
        rows = [self.space.resolution.index(arch.resolution)]
        stages = [iter(stage) for stage in (*arch.stages, (arch.head,))]
        state = self.segments[0].rows[rows[0]].after
        for segment in self.segments[1:]:
            spec = next(stages[segment.slot], None)
            row = segment.row_of.get((state, spec))
            if row is None:
                raise SpaceError(f"{self.space.name}: {_place(self.space, segment.slot)} cannot have {spec} there")
            rows.append(row)
            state = segment.rows[row].after
        for number, stage in enumerate(stages):
            if (spec := next(stage, None)) is not None:
                raise SpaceError(f"{self.space.name}: {_place(self.space, number)} has no place for {spec}")
        return rows


def unroll(space: Space) -> SpaceAutomaton:
    """Lay out `space`. Raises SpaceError, with the file's stage, where a layer cannot be built."""
    shapes: list[Shape] = [(IMAGE_CHANNELS, size, size) for size in space.resolution]
    segments = [LayerPosition(RESOLUTION, (tuple(Step(None, state) for state in range(len(shapes))),))]
    for number, slot in enumerate(space.stages):
        states = [(shape, frozenset(range(len(ways(slot))))) for shape in shapes]
        for position in range(max(slot.depth)):
            where = f"{space.name}, {_place(space, number)}, layer {position}"
            steps, states = _through_layer(ways(slot), states, position, where)
            segments.append(LayerPosition(number, steps))
        shapes = [shape for shape, _ in states]
    heads = []
    for shape in shapes:
        found = (traced(layer, (shape,), f"{space.name}, head") for (layer,) in enumerate_choices(space.head.layers))
        heads.append(tuple(Step(layer, 0) for layer in {layer.spec: layer for layer in found}.values()))
    return SpaceAutomaton(space, (*segments, LayerPosition(len(space.stages), tuple(heads))))


def _through_layer(
    known: Sequence[StageOption], states: Iterable[State], position: int, where: str
) -> tuple[tuple[tuple[Step, ...], ...], list[State]]:
    """Return the ways on from each state, and the states after them."""
    after: dict[State, int] = {}

    def number(shape: Shape, fitting: frozenset[int]) -> int:
        over = all(len(known[way].layers) == position + 1 for way in fitting)
        return after.setdefault((shape, _OVER if over else fitting), len(after))

    rows = []
    for shape, fitting in states:
        steps = []
        if not fitting or any(len(known[way].layers) == position for way in fitting):
            steps.append(Step(None, number(shape, _OVER)))
        found: dict[BlockSpec, tuple[Layer, set[int]]] = {}
        for way in sorted(fitting):
            for _, spec in known[way].layers[position] if position < len(known[way].layers) else ():
                layer = traced(spec, shape, where)
                if len(layer.out_shape) != 3:
                    raise SpaceError(f"{where}: {spec.op} gives no feature map")
                found.setdefault(layer.spec, (layer, set()))[1].add(way)
        for layer, group in found.values():
            steps.append(Step(layer, number(layer.out_shape, frozenset(group))))  # type: ignore[arg-type]
        rows.append(tuple(steps))
    return tuple(rows), list(after)


@dataclass(frozen=True)
class StageOption:
    """One way to choose what a stage shares, and for each of its layers its own choices with the block they give."""

    shared: Choices
    layers: tuple[tuple[tuple[Choices, BlockSpec], ...], ...]


@lru_cache(maxsize=256)
def ways(slot: StageSpec) -> tuple[StageOption, ...]:
    """Return every way to choose what the stage shares, its depth among it."""
    return tuple(enumerate_choices(lambda choose: _way(slot, choose)))


def _way(slot: StageSpec, choose: Choose) -> StageOption:
    shared: Choices = {}
    pick = ask_once(choose, shared)
    depth = int(pick(f"{slot.name}.depth", slot.depth))

    def layer(index: int, own: Choose) -> tuple[Choices, BlockSpec]:
        chosen: Choices = {}
        pick_own = ask_once(own, chosen)

        def ask(key: str, values: Values) -> Scalar:
            return pick_own(key, values) if key.startswith(f"{slot.name}.layer") else pick(key, values)

        return chosen, slot.layer(index, ask)

    each = [tuple(enumerate_choices(lambda own, index=index: layer(index, own))) for index in range(depth)]  # type: ignore[misc]
    return StageOption(shared, tuple(each))


def choices_for(space: Space, arch: Architecture) -> Choices:
    """Return choices that decode to the network of `arch`. Raises SpaceError where the space does not hold it."""
    arch = canonical(arch)
    choices: Choices = {"resolution": arch.resolution} if len(space.resolution) > 1 else {}
    shape: Shape = (IMAGE_CHANNELS, arch.resolution, arch.resolution)
    for number, (slot, stage) in enumerate(zip((*space.stages, space.head), (*arch.stages, (arch.head,)), strict=True)):
        is_head = number == len(space.stages)
        found = _spelled(slot, stage, shape, is_head)
        if found is None:
            raise SpaceError(f"{space.name}: {_place(space, number)} cannot have {', '.join(map(str, stage))}")
        choices |= found
        for spec in () if is_head else stage:
            shape = traced(spec, shape).out_shape  # type: ignore[assignment]
    return choices


@lru_cache(maxsize=100_000)
def _spelled(slot: StageSpec, stage: tuple[BlockSpec, ...], shape: Shape, is_head: bool) -> Choices | None:
    inputs: list[Shape | tuple[Shape]] = [(shape,)] if is_head else [shape]
    for spec in stage if not is_head else ():
        inputs.append(traced(spec, shape).out_shape)  # type: ignore[arg-type]
        shape = inputs[-1]  # type: ignore[assignment]
    for way in ways(slot):
        if len(way.layers) != len(stage):
            continue
        choices = dict(way.shared)
        for options, spec, entering in zip(way.layers, stage, inputs, strict=False):
            fitting = (chosen for chosen, given in options if traced(given, entering).spec == spec)
            if (own := next(fitting, None)) is None:
                break  # before a layer is traced at a shape that this way cannot have
            choices |= own
        else:
            return choices
    return None


def reachable(space: Space) -> list[Layer]:
    """Return every layer that an architecture of `space` can have, each once.

    Raises SpaceError, with the file's stage, where one of them cannot be built.
    """
    steps = (step for segment in unroll(space).segments for step in segment.rows)
    return list({(step.layer.spec, step.layer.in_shape): step.layer for step in steps if step.layer}.values())


def best_path(space: Space, cost: Cost, largest: bool = False) -> tuple[float, Architecture]:
    """Return the architecture with the exactly smallest (or largest) sum of `cost` over its layers, and the sum."""
    lattice = unroll(space)
    sign = -1.0 if largest else 1.0
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for segment in lattice.segments:
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        row = 0
        for state, steps in enumerate(segment.steps):
            total, rows = best[state]
            for step in steps:
                here = total + (sign * cost(step.layer) if step.layer else 0.0)
                if step.after not in reached or here < reached[step.after][0]:
                    reached[step.after] = (here, (*rows, row))
                row += 1
        best = reached
    total, rows = best[0]
    return sign * total, lattice.architecture(rows)


def _place(space: Space, number: int) -> str:
    return f"stage {number}" if number < len(space.stages) else "head"
