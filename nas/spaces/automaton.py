"""The automaton of a space: every layer that its networks can have, without building a network.

The layers of a stage depend on earlier stages only through the input shape. A space of 10^18 architectures therefore
has only some thousands of different layers, and sums over layers have exact extremes. `unroll` returns an automaton
that reads a network layer by layer. Every path through it is one canonical architecture, and every canonical
architecture is one path, even if several combinations of choices give it.
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
"""The shape, and the numbers of the stage options that fit the layers so far; no options: the stage is complete."""

RESOLUTION = -1
"""The `slot` of the first position, which chooses the resolution."""
_COMPLETE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Step:
    """A transition of the automaton.

    Attributes:
        layer: The layer that it adds; None if the stage has no more layers, and for the resolution.
        after: The state after it.
    """

    layer: Layer | None
    after: int


@dataclass(frozen=True)
class LayerPosition:
    """The position of one layer. A row is the number of a step when the steps of all states are concatenated.

    Attributes:
        slot: The stage's number; for the head the number of stages, for the resolution `RESOLUTION`.
        steps: The steps from each state, all different.
    """

    slot: int
    steps: tuple[tuple[Step, ...], ...]

    @cached_property
    def rows(self) -> tuple[Step, ...]:
        """Every step, in the order of the states."""
        return tuple(step for steps in self.steps for step in steps)

    @cached_property
    def row_of(self) -> dict[tuple[int, BlockSpec | None], int]:
        """The row of each pair (state, canonical block or None)."""
        keys = (
            (state, step.layer.spec if step.layer else None) for state, steps in enumerate(self.steps) for step in steps
        )
        return {key: row for row, key in enumerate(keys)}


@dataclass(frozen=True)
class SpaceAutomaton:
    """A space as an automaton. All paths start in state 0.

    Attributes:
        space: The space.
        positions: The resolution, every layer's position in order, and the head.
    """

    space: Space
    positions: tuple[LayerPosition, ...]

    @cached_property
    def encoded(self) -> dict[int, dict[tuple[int, ...], tuple[list[int], int]]]:
        """A cache of `SpaceCosts.encode_many`: for each slot, (state, indices of choices) -> (rows, state after)."""
        return {}

    def architecture(self, rows: Sequence[int]) -> Architecture:
        """Return the canonical architecture of a path. `rows` holds the row of each position."""
        stages: list[list[BlockSpec]] = [[] for _ in (*self.space.stages, self.space.head)]
        for position, row in zip(self.positions[1:], rows[1:], strict=True):
            layer = position.rows[row].layer
            if layer is not None:
                stages[position.slot].append(layer.spec)
        resolution = self.space.resolution[rows[0]]
        return Architecture(resolution, tuple(map(tuple, stages[:-1])), stages[-1][0])

    def path(self, arch: Architecture) -> list[int]:
        """Return the row of each position on the path of `arch`. Raises SpaceError if it is not in the space."""
        if arch.resolution not in self.space.resolution:
            raise SpaceError(f"offers no resolution of {arch.resolution} px", where=self.space.name)
        if len(arch.stages) != len(self.space.stages):
            raise SpaceError(f"has {len(self.space.stages)} stages", where=self.space.name, value=len(arch.stages))
        arch = canonical(arch)
        rows = [self.space.resolution.index(arch.resolution)]
        stages = [iter(stage) for stage in (*arch.stages, (arch.head,))]
        state = self.positions[0].rows[rows[0]].after
        for position in self.positions[1:]:
            spec = next(stages[position.slot], None)
            row = position.row_of.get((state, spec))
            if row is None:
                raise SpaceError(f"cannot have {spec} there", where=_place(self.space, position.slot))
            rows.append(row)
            state = position.rows[row].after
        for number, stage in enumerate(stages):
            if (spec := next(stage, None)) is not None:
                raise SpaceError(f"has no place for {spec}", where=_place(self.space, number))
        return rows


def unroll(space: Space) -> SpaceAutomaton:
    """Return the automaton of `space`. Raises SpaceError, with the stage and layer, if a layer cannot be built."""
    shapes: list[Shape] = [(IMAGE_CHANNELS, size, size) for size in space.resolution]
    positions = [LayerPosition(RESOLUTION, (tuple(Step(None, state) for state in range(len(shapes))),))]
    for number, stage in enumerate(space.stages):
        options = stage_options(stage)
        states = [(shape, frozenset(range(len(options)))) for shape in shapes]
        for index in range(max(stage.depth)):
            steps, states = _layer_steps(options, states, index, f"{_place(space, number)}, layer {index}")
            positions.append(LayerPosition(number, steps))
        shapes = [shape for shape, _ in states]
    heads = []
    for shape in shapes:
        layers = (
            traced(spec, (shape,), _place(space, len(space.stages))) for (spec,) in enumerate_choices(space.head.layers)
        )
        heads.append(tuple(Step(layer, 0) for layer in {layer.spec: layer for layer in layers}.values()))
    return SpaceAutomaton(space, (*positions, LayerPosition(len(space.stages), tuple(heads))))


def _layer_steps(
    options: Sequence[StageOption], states: Iterable[State], index: int, where: str
) -> tuple[tuple[tuple[Step, ...], ...], list[State]]:
    """Return the steps of a stage's layer `index` from each state, and the states after them."""
    after: dict[State, int] = {}

    def state_after(shape: Shape, fitting: frozenset[int]) -> int:
        is_complete = all(len(options[number].layers) == index + 1 for number in fitting)
        return after.setdefault((shape, _COMPLETE if is_complete else fitting), len(after))

    found = []
    for shape, fitting in states:
        steps = []
        if not fitting or any(len(options[number].layers) == index for number in fitting):
            steps.append(Step(None, state_after(shape, _COMPLETE)))
        groups: dict[BlockSpec, tuple[Layer, set[int]]] = {}
        for number in sorted(fitting):
            layers = options[number].layers
            for _, spec in layers[index] if index < len(layers) else ():
                layer = traced(spec, shape, where)
                if len(layer.out_shape) != 3:
                    raise SpaceError(f"{spec.op} returns no feature map", where=where)
                groups.setdefault(layer.spec, (layer, set()))[1].add(number)
        for layer, group in groups.values():
            steps.append(Step(layer, state_after(layer.out_shape, frozenset(group))))  # type: ignore[arg-type]
        found.append(tuple(steps))
    return tuple(found), list(after)


@dataclass(frozen=True)
class StageOption:
    """One combination of the choices that a stage's layers share.

    Attributes:
        shared: The shared choices, the depth among them.
        layers: For each layer, every combination of its own choices with the block that it gives.
    """

    shared: Choices
    layers: tuple[tuple[tuple[Choices, BlockSpec], ...], ...]


@lru_cache(maxsize=256)
def stage_options(stage: StageSpec) -> tuple[StageOption, ...]:
    """Return every combination of the choices that the stage's layers share."""
    return tuple(enumerate_choices(lambda choose: _stage_option(stage, choose)))


def _stage_option(stage: StageSpec, choose: Choose) -> StageOption:
    shared: Choices = {}
    pick = ask_once(choose, shared)
    depth = int(pick(f"{stage.name}.depth", stage.depth))

    def layer(index: int, own: Choose) -> tuple[Choices, BlockSpec]:
        chosen: Choices = {}
        pick_own = ask_once(own, chosen)

        def ask(key: str, values: Values) -> Scalar:
            return pick_own(key, values) if key.startswith(f"{stage.name}.layer") else pick(key, values)

        return chosen, stage.layer(index, ask)

    layers = [tuple(enumerate_choices(lambda own, index=index: layer(index, own))) for index in range(depth)]  # type: ignore[misc]
    return StageOption(shared, tuple(layers))


def choices_for(space: Space, arch: Architecture) -> Choices:
    """Return active choices that decode to the network of `arch`.

    `arch` must have the space's number of stages. Raises SpaceError if it is not in the space.
    """
    arch = canonical(arch)
    choices: Choices = {"resolution": arch.resolution} if len(space.resolution) > 1 else {}
    shape: Shape = (IMAGE_CHANNELS, arch.resolution, arch.resolution)
    pairs = zip((*space.stages, space.head), (*arch.stages, (arch.head,)), strict=True)
    for number, (stage, blocks) in enumerate(pairs):
        is_head = number == len(space.stages)
        found = _stage_choices(stage, blocks, shape, is_head)
        if found is None:
            raise SpaceError(f"cannot have {', '.join(map(str, blocks))}", where=_place(space, number))
        choices |= found
        for spec in () if is_head else blocks:
            shape = traced(spec, shape).out_shape  # type: ignore[assignment]
    return choices


@lru_cache(maxsize=100_000)
def _stage_choices(stage: StageSpec, blocks: tuple[BlockSpec, ...], shape: Shape, is_head: bool) -> Choices | None:
    """Return active choices of `stage` that give `blocks` for the input shape, None if there are none."""
    inputs: list[Shape | tuple[Shape]] = [(shape,)] if is_head else [shape]
    for spec in blocks if not is_head else ():
        inputs.append(traced(spec, shape).out_shape)  # type: ignore[arg-type]
        shape = inputs[-1]  # type: ignore[assignment]
    for option in stage_options(stage):
        if len(option.layers) != len(blocks):
            continue
        choices = dict(option.shared)
        for layer, spec, in_shape in zip(option.layers, blocks, inputs, strict=False):
            fitting = (chosen for chosen, given in layer if traced(given, in_shape).spec == spec)
            if (own := next(fitting, None)) is None:
                break  # the next layers need not fit the shapes of this option
            choices |= own
        else:
            return choices
    return None


def block_names(space: Space) -> tuple[str, ...]:
    """Return the names of the blocks that the stages and the head of a space offer, each once."""
    slots = (*space.stages, space.head)
    return tuple(dict.fromkeys(operator.block for slot in slots for operator in slot.operators))


def reachable(space: Space) -> list[Layer]:
    """Return every distinct layer of the architectures in `space`.

    Raises SpaceError, with the stage and layer, if one of them cannot be built.
    """
    steps = (step for position in unroll(space).positions for step in position.rows)
    return list({(step.layer.spec, step.layer.in_shape): step.layer for step in steps if step.layer}.values())


def best_path(space: Space, cost: Cost, largest: bool = False) -> tuple[float, Architecture]:
    """Return the exactly smallest (or largest) sum of `cost` over the layers of a network, and that network."""
    automaton = unroll(space)
    sign = -1.0 if largest else 1.0
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for position in automaton.positions:
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        row = 0
        for state, steps in enumerate(position.steps):
            total, rows = best[state]
            for step in steps:
                here = total + (sign * cost(step.layer) if step.layer else 0.0)
                if step.after not in reached or here < reached[step.after][0]:
                    reached[step.after] = (here, (*rows, row))
                row += 1
        best = reached
    total, rows = best[0]
    return sign * total, automaton.architecture(rows)


def _place(space: Space, number: int) -> str:
    return f"{space.name}, " + (f"stage {number}" if number < len(space.stages) else "head")
