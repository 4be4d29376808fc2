"""The search-space language: a scalar is fixed, a list is a choice, a list of blocks is a choice of operator.

A space is walked with a function `choose(key, values)`. Sampling, decoding, Optuna's suggestions and exhaustive
enumeration are that one walk with another `choose`; choices that a walk does not reach are inactive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Protocol, TypeVar

from nas.architecture import Architecture, BlockSpec, Scalar
from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, keywords
from nas.spaces.identity import hex_digest, record_text, stage_text, tuple_text

Values = tuple[Scalar, ...]
Choices = Mapping[str, Scalar]
Choose = Callable[[str, Values], Scalar]
Conditions = tuple[tuple[str, frozenset[Scalar]], ...]
"""Pairs of a choice and the values of it, one of which it must have."""
T = TypeVar("T")


@dataclass(frozen=True)
class Operator:
    """A block with its own choices. `label` names it in the keys: the block's name, numbered if it repeats."""

    label: str
    block: str
    args: tuple[tuple[str, Values], ...] = ()


@dataclass(frozen=True)
class StageSpec:
    """A stage (or the neck or the head): what its layers share, and what they choose each for itself.

    `per_layer` holds the keywords, or "block", that every layer chooses anew; all others are shared by the
    stage's layers (the factorized hierarchical space of MnasNet, section 4.1). `alternate` holds no choices:
    the layers take its values in turn.
    """

    name: str
    operators: tuple[Operator, ...]
    depth: tuple[int, ...] = (1,)
    args: tuple[tuple[str, Values], ...] = ()
    per_layer: frozenset[str] = frozenset()
    alternate: tuple[tuple[str, Values], ...] = ()

    def layers(self, choose: Choose) -> tuple[BlockSpec, ...]:
        """Return the stage's blocks, the first with the stage's stride and the others with 1."""
        depth = choose(f"{self.name}.depth", self.depth)
        return tuple(self.layer(index, choose) for index in range(int(depth)))

    def layer(self, index: int, choose: Choose) -> BlockSpec:
        """Return the block at `index`, asking `choose` for everything that decides it."""
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
        """Whether each layer chooses `key` for itself. Where the block varies, so do the block's own keywords."""
        return key in self.per_layer or (of_operator and "block" in self.per_layer)

    @property
    def size(self) -> int:
        """The exact number of ways to choose this slot, inactive choices not counted."""
        shared = prod(len(values) for key, values in self.args if not self.varies(key))
        each = prod(len(values) for key, values in self.args if self.varies(key))
        total = 0
        for depth in self.depth:
            if depth == 0:
                total += 1
            elif "block" in self.per_layer:
                ways = sum(prod(len(values) for _, values in op.args) for op in self.operators)
                total += shared * (each * ways) ** depth
            else:
                total += sum(shared * self._ways(op, each, depth) for op in self.operators)
        return total

    def _ways(self, operator: Operator, each: int, depth: int) -> int:
        fixed = prod(len(values) for key, values in operator.args if not self.varies(key))
        varying = prod(len(values) for key, values in operator.args if self.varies(key))
        return int(fixed * (each * varying) ** depth)

    def choices(self) -> dict[str, Values]:
        """Return every choice that this slot can ask for, in the order in which a walk asks."""
        asked: dict[str, Values] = {}
        if len(self.depth) > 1:
            asked[f"{self.name}.depth"] = self.depth
        for index in range(max(self.depth)):
            labels = tuple(op.label for op in self.operators)
            found: dict[str, Values] = {self._key("block", index): labels}
            found |= {self._key(key, index): values for key, values in self.args}
            for op in self.operators:
                found |= {self._key(key, index, f"{op.label}."): values for key, values in op.args}
            asked |= {key: values for key, values in found.items() if len(values) > 1}
        return asked

    def conditions(self) -> dict[str, Conditions]:
        """Return, for each choice that is not always active, which values other choices must have."""
        found: dict[str, Conditions] = {}
        for index in range(max(self.depth)):
            deep = frozenset(depth for depth in self.depth if depth > index)
            exists: Conditions = () if len(deep) == len(self.depth) else ((f"{self.name}.depth", deep),)
            for key in ("block", *(key for key, _ in self.args)):
                found.setdefault(self._key(key, index), exists)
            for op in self.operators:
                taken = (self._key("block", index), frozenset([op.label]))
                needed = (*exists, taken) if len(self.operators) > 1 else exists
                for key, _ in op.args:
                    found.setdefault(self._key(key, index, f"{op.label}."), needed)
        return {key: needed for key, needed in found.items() if needed}


@dataclass(frozen=True)
class Proxy:
    """The cheap training that ranks candidates: input resolution in pixels, epochs, training images (0: all).

    Where candidates differ in resolution, `of` is the one whose share `resolution` is, and all train at that share of
    their own; 0: all train at `resolution`.
    """

    resolution: int = 32
    epochs: int = 3
    images: int = 0
    of: int = 0

    def at(self, resolution: int) -> int:
        """Return the pixels at which a network for inputs of `resolution` trains."""
        return max(1, round(resolution * self.resolution / self.of)) if self.of else self.resolution


@dataclass(frozen=True)
class FinalTraining:
    """The winner's training: epochs at the proxy's resolution, images of an epoch at the deployed one."""

    epochs: int = 8
    images: int = 500


@dataclass(frozen=True)
class SupernetTraining:
    """The training of shared weights, over the proxy's images. See `nas.evaluators.supernet.training`.

    `children` are the random ones of a step; `sandwich` adds the largest and the smallest, `distill` lets the others
    learn from the largest; random children lean to the largest choices for `warmup_epochs`.
    """

    epochs: int = 30
    batch_size: int = 32
    children: int = 1
    sandwich: bool = False
    distill: bool = False
    warmup_epochs: int = 0


@dataclass(frozen=True)
class Space:
    """A set of architectures, as a file of search_spaces/ gives it.

    A file of one network may tell its published top-1 accuracy on ImageNet, in percent, and where it stands.
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

    @cached_property
    def choices(self) -> dict[str, Values]:
        """Every choice with its values: "stage3.kernel_size": (3, 5)."""
        asked: dict[str, Values] = {}
        if len(self.resolution) > 1:
            asked["resolution"] = self.resolution
        for slot in (*self.stages, self.head):
            asked |= slot.choices()
        return asked

    @cached_property
    def conditions(self) -> dict[str, Conditions]:
        """When the choices that are not always active are: "stage3.layer2.kernel_size": (("stage3.depth", {3, 4}),)."""
        found = {key: needed for slot in (*self.stages, self.head) for key, needed in slot.conditions().items()}
        return {key: found[key] for key in self.choices if key in found}

    @cached_property
    def key(self) -> str:
        """The name and 8 digits of what can be chosen, the number of classes left out: an edited space is another."""
        head = replace(self.head, args=tuple(pair for pair in self.head.args if pair[0] != "num_classes"))
        text = tuple_text([repr(self.resolution), tuple_text(map(stage_text, self.stages)), stage_text(head)])
        return f"{self.name}@{hex_digest(text, 8)}"

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of all that decides a search in it; how a supernet of it is trained is left out."""
        proxy, final = self.proxy, self.final
        return hex_digest(
            tuple_text(
                [
                    repr(self.name),
                    repr(self.resolution),
                    tuple_text(map(stage_text, self.stages)),
                    stage_text(self.head),
                    record_text(
                        "Proxy", resolution=repr(proxy.resolution), epochs=repr(proxy.epochs), images=repr(proxy.images)
                    ),
                    record_text("FinalTraining", epochs=repr(final.epochs), images=repr(final.images)),
                ]
            )
        )

    @property
    def is_network(self) -> bool:
        """Whether nothing is left to choose: the file describes one network."""
        return not self.choices

    @property
    def size(self) -> int:
        """The exact number of ways to choose."""
        return len(self.resolution) * prod(slot.size for slot in self.stages) * self.head.size

    def walk(self, choose: Choose) -> tuple[Architecture, dict[str, Scalar]]:
        """Return the architecture that `choose` leads to, and the choices that were active on the way."""
        chosen: dict[str, Scalar] = {}
        pick = ask_once(choose, chosen)
        resolution = int(pick("resolution", self.resolution))
        stages = tuple(slot.layers(pick) for slot in self.stages)
        return Architecture(resolution, stages, self.head.layers(pick)[0]), chosen

    def decode(self, choices: Choices) -> Architecture:
        """Return the architecture of `choices`; inactive ones are ignored.

        Raises SpaceError where an active choice is missing or has a value that the space does not offer.
        """
        return self.walk(lambda key, values: self._given(choices, key, values))[0]

    def active(self, choices: Choices) -> dict[str, Scalar]:
        """Return those of `choices` that decide the architecture."""
        return self.walk(lambda key, values: self._given(choices, key, values))[1]

    def _given(self, choices: Choices, key: str, values: Values) -> Scalar:
        if key not in choices:
            raise SpaceError(f"{self.name}: the choice '{key}' is missing")
        if choices[key] not in values:
            known = ", ".join(map(str, values))
            raise SpaceError(f"{self.name}: {key} must be one of {known}: {choices[key]!r}")
        return choices[key]

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return active choices, each drawn uniformly."""
        return self.walk(lambda _, values: rng.choice(values))[1]

    def encode(self, choices: Choices) -> tuple[int, ...]:
        """Return the index of every choice's value, -1 for an inactive one, in the order of `self.choices`."""
        active = self.active(choices)
        return tuple(values.index(active[key]) if key in active else -1 for key, values in self.choices.items())

    def from_encoding(self, code: tuple[int, ...]) -> dict[str, Scalar]:
        """Return the choices that `encode` gave."""
        pairs = zip(self.choices.items(), code, strict=True)
        return {key: values[index] for (key, values), index in pairs if index >= 0}

    def neighbours(self, choices: Choices) -> Iterator[dict[str, Scalar]]:
        """Yield what one changed choice gives; choices that become active take their first value."""
        active = self.active(choices)
        for key in active:
            for value in self.choices[key]:
                if value != active[key]:
                    changed = {**active, key: value}
                    yield self.walk(lambda k, values, given=changed: given.get(k, values[0]))[1]  # type: ignore[misc]

    def for_classes(self, num_classes: int) -> Space:
        """Return the same space with a head for `num_classes` classes."""
        args = tuple((key, values) for key, values in self.head.args if key != "num_classes")
        head = replace(self.head, args=(*args, ("num_classes", (num_classes,))))
        return replace(self, head=head)


class Searched(Protocol):
    """What a search, its study and its evaluators need to know of what is searched: a space, or a grid of factors."""

    @property
    def name(self) -> str:
        """Return what it is called."""

    @property
    def key(self) -> str:
        """Return the name and digits of what can be chosen."""

    @property
    def proxy(self) -> Proxy:
        """Return the cheap training of its candidates."""

    @property
    def choices(self) -> dict[str, Values]:
        """Return every choice with its values."""

    def decode(self, choices: Choices) -> Architecture:
        """Return the architecture of choices. Raises SpaceError."""

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return random choices."""


def ask_once(choose: Choose, chosen: dict[str, Scalar]) -> Choose:
    """Return `choose` asked once per key, and only where there is more than one value; fills `chosen`."""

    def pick(key: str, values: Values) -> Scalar:
        if len(values) == 1:
            return values[0]
        if key not in chosen:
            chosen[key] = choose(key, values)
        return chosen[key]

    return pick


def enumerate_choices(walk: Callable[[Choose], T]) -> Iterator[T]:
    """Yield the result of `walk` for every way to choose, whatever it asks and in whatever order."""
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
    def choose(_: str, values: Values) -> Scalar:
        position = len(widths)
        widths.append(len(values))
        return values[path[position] if position < len(path) else 0]

    return choose


@lru_cache(maxsize=100_000)
def _block_spec(op: str, args: tuple[tuple[str, Any], ...]) -> BlockSpec:
    return block_spec(op, dict(args))
