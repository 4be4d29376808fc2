"""Search spaces: sets of architectures, described by choices.

A scalar is fixed, a list is a choice, and a list of blocks is a choice of operator.

Every operation walks the space with a function `choose(key, values)`. Sampling, decoding, Optuna's suggestions and
exhaustive enumeration are the same walk with a different `choose`. A choice that the walk does not reach is inactive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Protocol, TypeVar

from nas.architecture import RGB_SQUARE, Architecture, BlockSpec, InputFormat, Scalar
from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, keywords
from nas.spaces.identity import hex_digest, record_text, settings_text, stage_text, tuple_text
from nas.spaces.trainings import FinalTraining, Proxy, SupernetTraining

Values = tuple[Scalar, ...]
Choices = Mapping[str, Scalar]
Choose = Callable[[str, Values], Scalar]
Conditions = tuple[tuple[str, frozenset[Scalar]], ...]
"""Pairs (key, allowed values). A choice is active if every `key` has one of its allowed values."""
T = TypeVar("T")


@dataclass(frozen=True)
class Operator:
    """A block with its own choices.

    Attributes:
        label: The operator's name in keys: the block's name, numbered if the block appears more than once.
        block: The block's name in `BLOCKS`.
        args: The block's own keywords with their values.
    """

    label: str
    block: str
    args: tuple[tuple[str, Values], ...] = ()


@dataclass(frozen=True)
class StageSpec:
    """A stage, a stage of the neck, or the head: the choices that its layers share, and those that each layer makes.

    By default the layers share every choice (the factorized hierarchical space of MnasNet, section 4.1).

    Attributes:
        name: "stage0", "stage1", ..., "neck0", ... or "head".
        operators: The blocks to choose from.
        depth: The numbers of layers to choose from.
        args: Keywords that apply to all operators, with their values.
        per_layer: Keywords, or "block", that each layer chooses for itself.
        alternate: Keywords whose values the layers take in turn. They are not choices.
        tap: Whether neck and head read the stage's last feature map.
    """

    name: str
    operators: tuple[Operator, ...]
    depth: tuple[int, ...] = (1,)
    args: tuple[tuple[str, Values], ...] = ()
    per_layer: frozenset[str] = frozenset()
    alternate: tuple[tuple[str, Values], ...] = ()
    tap: bool = False

    def layers(self, choose: Choose) -> tuple[BlockSpec, ...]:
        """Return the stage's blocks. Only the first one has the stage's stride."""
        depth = choose(f"{self.name}.depth", self.depth)
        return tuple(self.layer(index, choose) for index in range(int(depth)))

    def layer(self, index: int, choose: Choose) -> BlockSpec:
        """Return the block at `index`, with every choice made by `choose`."""
        label = choose(self._key("block", index), tuple(op.label for op in self.operators))
        operator = next(op for op in self.operators if op.label == label)
        args = {key: choose(self._key(key, index), values) for key, values in self.args}
        for key, values in operator.args:
            args[key] = choose(self._key(key, index, f"{label}."), values)
        for key, values in self.alternate:
            args[key] = values[index % len(values)]
        if index > 0 and "stride" in keywords(operator.block):
            args["stride"] = 1
        return _block_spec(operator.block, tuple(args.items()))

    def _key(self, key: str, index: int, label: str = "") -> str:
        scope = f"{self.name}.layer{index}" if self.varies(key, bool(label)) else self.name
        return f"{scope}.{label}{key}"

    def varies(self, key: str, of_operator: bool = False) -> bool:
        """Return whether each layer chooses `key` for itself. If the block varies, so do the block's own keywords."""
        return key in self.per_layer or (of_operator and "block" in self.per_layer)

    @property
    def size(self) -> int:
        """The exact number of combinations of this stage's active choices."""
        shared = prod(len(values) for key, values in self.args if not self.varies(key))
        per_layer = prod(len(values) for key, values in self.args if self.varies(key))
        total = 0
        for depth in self.depth:
            if depth == 0:
                total += 1
            elif "block" in self.per_layer:
                per_block = sum(prod(len(values) for _, values in op.args) for op in self.operators)
                total += shared * (per_layer * per_block) ** depth
            else:
                total += sum(shared * self._operator_size(op, per_layer, depth) for op in self.operators)
        return total

    def _operator_size(self, operator: Operator, per_layer: int, depth: int) -> int:
        fixed = prod(len(values) for key, values in operator.args if not self.varies(key))
        varying = prod(len(values) for key, values in operator.args if self.varies(key))
        return int(fixed * (per_layer * varying) ** depth)

    def choices(self) -> dict[str, Values]:
        """Return every choice of this stage with its values, in the order of a walk."""
        found: dict[str, Values] = {}
        if len(self.depth) > 1:
            found[f"{self.name}.depth"] = self.depth
        labels = tuple(op.label for op in self.operators)
        for index in range(max(self.depth)):
            own: dict[str, Values] = {self._key("block", index): labels}
            own |= {self._key(key, index): values for key, values in self.args}
            for op in self.operators:
                own |= {self._key(key, index, f"{op.label}."): values for key, values in op.args}
            found |= {key: values for key, values in own.items() if len(values) > 1}
        return found

    def conditions(self) -> dict[str, Conditions]:
        """Return the conditions of each choice that is not always active."""
        found: dict[str, Conditions] = {}
        for index in range(max(self.depth)):
            deep = frozenset(depth for depth in self.depth if depth > index)
            exists: Conditions = () if len(deep) == len(self.depth) else ((f"{self.name}.depth", deep),)
            for key in ("block", *(key for key, _ in self.args)):
                found.setdefault(self._key(key, index), exists)
            for op in self.operators:
                chosen = (self._key("block", index), frozenset([op.label]))
                needed = (*exists, chosen) if len(self.operators) > 1 else exists
                for key, _ in op.args:
                    found.setdefault(self._key(key, index, f"{op.label}."), needed)
        return {key: needed for key, needed in found.items() if needed}


@dataclass(frozen=True)
class Space:
    """A set of architectures, as described by a file in search_spaces/.

    Attributes:
        name: The file's name without its suffix.
        resolution: Heights of the input in pixels to choose from, and its widths unless `input` says otherwise.
        stages: The stages in order.
        head: The head.
        proxy: The training that ranks candidates.
        final: The winner's training.
        supernet: The training of a supernet of this space.
        about: One line that describes the space.
        source: The publication that the space comes from.
        published_top1: For a single network: its published top-1 accuracy on ImageNet, in percent.
        published_ap: For a single detector: its published average precision on COCO, in percent.
        published_source: Where that accuracy was published.
        neck: The stages of the neck in order.
        input: The channels and the aspect ratio of the input.
    """

    name: str
    resolution: tuple[int, ...]
    stages: tuple[StageSpec, ...]
    head: StageSpec
    proxy: Proxy = field(default_factory=Proxy)
    final: FinalTraining = field(default_factory=FinalTraining)
    supernet: SupernetTraining = field(default_factory=SupernetTraining)
    about: str = ""
    source: str = ""
    published_top1: float | None = None
    published_source: str = ""
    published_ap: float | None = None
    neck: tuple[StageSpec, ...] = ()
    input: InputFormat = RGB_SQUARE

    @property
    def slots(self) -> tuple[StageSpec, ...]:
        """The stages, the stages of the neck, and the head."""
        return (*self.stages, *self.neck, self.head)

    @cached_property
    def choices(self) -> dict[str, Values]:
        """Every choice with its values: "stage3.kernel_size": (3, 5)."""
        found: dict[str, Values] = {}
        if len(self.resolution) > 1:
            found["resolution"] = self.resolution
        for stage in self.slots:
            found |= stage.choices()
        return found

    @cached_property
    def conditions(self) -> dict[str, Conditions]:
        """The conditions of each choice that is not always active.

        An example: "stage3.layer2.kernel_size": (("stage3.depth", {3, 4}),).
        """
        found = {key: needed for stage in self.slots for key, needed in stage.conditions().items()}
        return {key: found[key] for key in self.choices if key in found}

    @cached_property
    def key(self) -> str:
        """The name and 8 hex digits of all choices. An edited space has a different key.

        The number of classes is left out, so that a latency table serves every data set.
        """
        head = replace(self.head, args=_without_classes(self.head.args))
        text = tuple_text(
            [repr(self.resolution), tuple_text(map(stage_text, self.stages)), stage_text(head), *self._later_texts]
        )
        return f"{self.name}@{hex_digest(text, 8)}"

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of everything that decides a search in this space. Supernet training is left out."""
        proxy, final = self.proxy, self.final
        later = [name for name in ("full_epochs", "branches") if getattr(final, name)]
        texts = [
            repr(self.name),
            repr(self.resolution),
            tuple_text(map(stage_text, self.stages)),
            stage_text(self.head),
            *self._later_texts,
            settings_text("Proxy", proxy, "resolution", "epochs", "images"),
            settings_text("FinalTraining", final, "epochs", "images", *later),
        ]
        return hex_digest(tuple_text(texts))

    @property
    def _later_texts(self) -> tuple[str, ...]:
        """The texts of neck and input in digests: nothing without a neck, and for square images with three channels."""
        neck = [tuple_text(map(stage_text, self.neck))] if self.neck else []
        channels, aspect = str(self.input.channels), repr(str(self.input.aspect))
        own = self.input != RGB_SQUARE
        return (*neck, *([record_text("InputFormat", channels=channels, aspect=aspect)] if own else []))

    @property
    def is_network(self) -> bool:
        """Whether the space has no choices and so describes a single network."""
        return not self.choices

    @property
    def size(self) -> int:
        """The exact number of combinations of active choices."""
        return len(self.resolution) * prod(stage.size for stage in self.slots)

    @property
    def taps(self) -> tuple[int, ...]:
        """The numbers of the stages whose last feature maps neck and head read."""
        return tuple(number for number, stage in enumerate(self.stages) if stage.tap)

    def walk(self, choose: Choose) -> tuple[Architecture, dict[str, Scalar]]:
        """Return the architecture that `choose` selects, and the active choices."""
        chosen: dict[str, Scalar] = {}
        pick = ask_once(choose, chosen)
        resolution = int(pick("resolution", self.resolution))
        stages = tuple(stage.layers(pick) for stage in self.stages)
        neck = tuple(stage.layers(pick) for stage in self.neck)
        return Architecture(
            resolution, stages, self.head.layers(pick)[0], self.taps, neck, self.input.exact(resolution)
        ), chosen

    def decode(self, choices: Choices) -> Architecture:
        """Return the architecture of `choices`; inactive choices are ignored.

        Raises:
            SpaceError: An active choice is missing or has a value that the space does not offer.
        """

        def look_up(key: str, values: Values) -> Scalar:
            if key not in choices:
                raise SpaceError(f"the choice '{key}' is missing", where=self.name)
            if choices[key] not in values:
                known = ", ".join(map(str, values))
                raise SpaceError(f"must be one of {known}", where=self.name, key=key, value=choices[key])
            return choices[key]

        return self.walk(look_up)[0]

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return active choices, each drawn uniformly."""
        return self.walk(lambda _, values: rng.choice(values))[1]

    def for_classes(self, num_classes: int) -> Space:
        """Return the same space with a head for `num_classes` classes."""
        args = (*_without_classes(self.head.args), ("num_classes", (num_classes,)))
        return replace(self, head=replace(self.head, args=args))


class Searched(Protocol):
    """What a search, its study and its evaluators need: a `Space`, or a grid of scaling factors."""

    @property
    def name(self) -> str:
        """Return the name."""

    @property
    def key(self) -> str:
        """Return the name and a digest of all choices."""

    @property
    def proxy(self) -> Proxy:
        """Return the short training that ranks candidates."""

    @property
    def choices(self) -> dict[str, Values]:
        """Return every choice with its values."""

    def decode(self, choices: Choices) -> Architecture:
        """Return the architecture of `choices`. Raises SpaceError."""

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return random choices."""


def _without_classes(args: tuple[tuple[str, Values], ...]) -> tuple[tuple[str, Values], ...]:
    return tuple(pair for pair in args if pair[0] != "num_classes")


def ask_once(choose: Choose, chosen: dict[str, Scalar]) -> Choose:
    """Return a `choose` that asks for each key once, and only if there is more than one value.

    Args:
        choose: The function to ask.
        chosen: Receives every answer of `choose` by its key.
    """

    def pick(key: str, values: Values) -> Scalar:
        if len(values) == 1:
            return values[0]
        if key not in chosen:
            chosen[key] = choose(key, values)
        return chosen[key]

    return pick


def enumerate_choices(walk: Callable[[Choose], T]) -> Iterator[T]:
    """Yield the result of `walk` for every combination of choices. `walk` may ask in any order."""
    path: list[int] = []
    while True:
        widths: list[int] = []
        yield walk(ask_once(_follow(path, widths), {}))
        path += [0] * (len(widths) - len(path))
        while path and path[-1] + 1 == widths[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


def _follow(path: list[int], widths: list[int]) -> Choose:
    """Return a `choose` that takes the indices of `path`, then 0, and appends each number of values to `widths`."""

    def choose(_: str, values: Values) -> Scalar:
        position = len(widths)
        widths.append(len(values))
        return values[path[position] if position < len(path) else 0]

    return choose


@lru_cache(maxsize=100_000)
def _block_spec(op: str, args: tuple[tuple[str, Any], ...]) -> BlockSpec:
    return block_spec(op, dict(args))
