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

from nas.architecture import Architecture, BlockSpec, Scalar
from nas.errors import SpaceError
from nas.networks.block_schema import Role
from nas.networks.network import Layer, Maps, Placed, after_stage, canonical, placed, slot_role
from nas.spaces.search_space import Choose, Space, StageSpec, Values, ask_once, enumerate_choices

Cost = Callable[[Layer], float]
Choices = dict[str, Scalar]
State = tuple[Maps, frozenset[int]]
"""The live feature maps, and the numbers of the stage options that fit the layers so far; none: it is complete."""

RESOLUTION = -1
"""The `slot` of the first position, which chooses the resolution."""
_COMPLETE: frozenset[int] = frozenset()
MOST_STATES = 50_000
"""A space whose layers have more different combinations of live feature maps is refused: they take minutes to list."""


@dataclass(frozen=True)
class Step:
    """A transition of the automaton.

    Attributes:
        spec: The block that it adds; None if the stage has no more layers, and for the resolution.
        layers: The layers of the block: several for a block of the neck that reads one map.
        after: The state after it.
    """

    spec: BlockSpec | None
    layers: tuple[Layer, ...]
    after: int


@dataclass(frozen=True)
class LayerPosition:
    """The position of one layer. A row is the number of a step when the steps of all states are concatenated.

    Attributes:
        slot: The number of the stage, of the stage of the neck or of the head in `Space.slots`; `RESOLUTION` for it.
        steps: The steps from each state, all different.
        maps: The live feature maps of each state.
    """

    slot: int
    steps: tuple[tuple[Step, ...], ...]
    maps: tuple[Maps, ...] = ()

    @cached_property
    def rows(self) -> tuple[Step, ...]:
        """Every step, in the order of the states."""
        return tuple(step for steps in self.steps for step in steps)

    @cached_property
    def row_of(self) -> dict[tuple[int, BlockSpec | None], int]:
        """The row of each pair (state, canonical block or None)."""
        keys = ((state, step.spec) for state, steps in enumerate(self.steps) for step in steps)
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
        slots: list[list[BlockSpec]] = [[] for _ in self.space.slots]
        for position, row in zip(self.positions[1:], rows[1:], strict=True):
            spec = position.rows[row].spec
            if spec is not None:
                slots[position.slot].append(spec)
        stages, count = tuple(map(tuple, slots)), len(self.space.stages)
        resolution = self.space.resolution[rows[0]]
        parts = stages[:count], stages[-1][0], self.space.taps, stages[count:-1]
        return Architecture(resolution, *parts, self.space.input.exact(resolution))

    def path(self, arch: Architecture) -> list[int]:
        """Return the row of each position on the path of `arch`. Raises SpaceError if it is not in the space."""
        if arch.resolution not in self.space.resolution:
            raise SpaceError(f"offers no resolution of {arch.input_size} px", where=self.space.name)
        check_form(self.space, arch)
        arch = canonical(arch)
        rows = [self.space.resolution.index(arch.resolution)]
        stages = [iter(stage) for stage in arch.slots]
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
    live: list[Maps] = [(space.input.shape(size),) for size in space.resolution]
    start = tuple(Step(None, (), state) for state in range(len(live)))
    positions = [LayerPosition(RESOLUTION, (start,), ((),))]
    for number, stage in enumerate(space.slots):
        options, (of, _) = stage_options(stage), _role(space, number)
        states = [(maps, frozenset(range(len(options)))) for maps in live]
        for index in range(max(stage.depth)):
            where = _place(space, number) + ("" if of == "head" else f", layer {index}")
            steps, after = _layer_steps(options, states, index, of, where)
            positions.append(LayerPosition(number, steps, tuple(maps for maps, _ in states)))
            states = after
        live = [maps for maps, _ in states]
        if of == "block":
            live = [after_stage(maps, stage.tap, number == len(space.stages) - 1) for maps in live]
    return SpaceAutomaton(space, tuple(positions))


def _layer_steps(
    options: Sequence[StageOption], states: Iterable[State], index: int, of: Role, where: str
) -> tuple[tuple[tuple[Step, ...], ...], list[State]]:
    """Return the steps of a stage's layer `index` from each state, and the states after them."""
    after: dict[State, int] = {}

    def state_after(maps: Maps, fitting: frozenset[int]) -> int:
        is_complete = all(len(options[number].layers) == index + 1 for number in fitting)
        return after.setdefault((maps, _COMPLETE if is_complete else fitting), len(after))

    found = []
    for maps, fitting in states:
        steps = []
        if not fitting or any(len(options[number].layers) == index for number in fitting):
            steps.append(Step(None, (), state_after(maps, _COMPLETE)))
        for block, group in _blocks(options, maps, fitting, index, of, where):
            steps.append(Step(block.spec, block.layers, state_after(block.maps, group)))
        found.append(tuple(steps))
        if len(after) > MOST_STATES:
            count = f"at least {len(after):,} combinations of the feature maps that neck and head read"
            rule = f"has {count}, more than the limit of {MOST_STATES:,}"
            raise SpaceError(f"{rule}; offer fewer widths in the stages with a tap, or fewer resolutions", where=where)
    return tuple(found), list(after)


def _blocks(
    options: Sequence[StageOption], maps: Maps, fitting: Iterable[int], index: int, of: Role, where: str
) -> list[tuple[Placed, frozenset[int]]]:
    """Return each different block that a layer can be, with the numbers of the stage options that give it."""
    groups: dict[BlockSpec, tuple[Placed, set[int]]] = {}
    for number in sorted(fitting):
        layers = options[number].layers
        for _, spec in layers[index] if index < len(layers) else ():
            block = placed(spec, maps, where, of)
            if of == "block" and len(block.maps[-1]) != 3:
                raise SpaceError(f"{spec.op} returns no feature map", where=where)
            groups.setdefault(block.spec, (block, set()))[1].add(number)
    return [(block, frozenset(group)) for block, group in groups.values()]


def check_form(space: Space, arch: Architecture) -> None:
    """Raise SpaceError if a network has another input, numbers of stages, taps or neck than those of a space."""
    if arch.input_shape != space.input.shape(arch.resolution):
        own, other = (f"{each.input.channels} channels, width/height {each.input.aspect}" for each in (space, arch))
        raise SpaceError(f"has inputs of {own}; this network of {other}", where=space.name)
    if len(arch.stages) != len(space.stages):
        raise SpaceError(f"has {len(space.stages)} stages, this network {len(arch.stages)}", where=space.name)
    if len(arch.neck) != len(space.neck):
        rule = f"has {len(space.neck)} stages in its neck, this network {len(arch.neck)}"
        raise SpaceError(rule, where=space.name)
    if arch.taps != space.taps:
        raise SpaceError(f"has taps at the stages {list(space.taps)}", where=space.name, value=list(arch.taps))


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
    """Return active choices that decode to the network of `arch`. Raises SpaceError if it is not in the space."""
    check_form(space, arch)
    arch = canonical(arch)
    choices: Choices = {"resolution": arch.resolution} if len(space.resolution) > 1 else {}
    maps: Maps = (arch.input_shape,)
    for number, (stage, blocks) in enumerate(zip(space.slots, arch.slots, strict=True)):
        of, _ = _role(space, number)
        found = _stage_choices(stage, blocks, maps, of)
        if found is None:
            raise SpaceError(f"cannot have {', '.join(map(str, blocks))}", where=_place(space, number))
        choices |= found
        for spec in blocks:
            maps = placed(spec, maps, of=of).maps
        if of == "block":
            maps = after_stage(maps, stage.tap, number == len(space.stages) - 1)
    return choices


@lru_cache(maxsize=100_000)
def _stage_choices(stage: StageSpec, blocks: tuple[BlockSpec, ...], maps: Maps, of: Role) -> Choices | None:
    """Return active choices of `stage` that give `blocks` for the feature maps before it, None if there are none."""
    inputs = [maps]
    for spec in blocks:
        inputs.append(placed(spec, inputs[-1], of=of).maps)
    for option in stage_options(stage):
        if len(option.layers) != len(blocks):
            continue
        choices = dict(option.shared)
        for layer, spec, before in zip(option.layers, blocks, inputs, strict=False):
            fitting = (chosen for chosen, given in layer if placed(given, before, of=of).spec == spec)
            if (own := next(fitting, None)) is None:
                break  # the next layers need not fit the shapes of this option
            choices |= own
        else:
            return choices
    return None


def block_names(space: Space) -> tuple[str, ...]:
    """Return the names of the blocks that the stages, the neck and the head of a space offer, each once."""
    return tuple(dict.fromkeys(operator.block for slot in space.slots for operator in slot.operators))


def reachable(space: Space) -> list[Layer]:
    """Return every distinct layer of the architectures in `space`.

    Raises SpaceError, with the stage and layer, if one of them cannot be built.
    """
    steps = (step for position in unroll(space).positions for step in position.rows)
    return list({(layer.spec, layer.in_shape): layer for step in steps for layer in step.layers}.values())


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
                here = total + sign * sum(map(cost, step.layers))
                if step.after not in reached or here < reached[step.after][0]:
                    reached[step.after] = (here, (*rows, row))
                row += 1
        best = reached
    total, rows = best[0]
    return sign * total, automaton.architecture(rows)


def _role(space: Space, number: int) -> tuple[Role, str]:
    return slot_role(number, len(space.stages), len(space.neck))


def _place(space: Space, number: int) -> str:
    return f"{space.name}, {_role(space, number)[1]}"
