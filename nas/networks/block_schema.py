"""Block schema: the keywords, types, defaults and declared traits of each block, read from its class."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from nas.architecture import BlockSpec, Scalar
from nas.errors import SpaceError
from nas.networks.blocks import BLOCKS, find_block
from nas.utils.registry import nearest, plugin_module
from nas.utils.source_code import source_digests

Role = Literal["block", "neck", "head"]


@dataclass(frozen=True)
class Keyword:
    """One keyword of a block.

    Attributes:
        name: The keyword.
        type: bool, int, float or str.
        default: The default value; `inspect.Parameter.empty` if there is none.
        words: The allowed strings, for a keyword annotated with a Literal.
    """

    name: str
    type: type
    default: Any
    words: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the keyword has no default."""
        return self.default is inspect.Parameter.empty

    def check(self, value: object, where: str) -> Scalar:
        """Return `value` in this keyword's type. Raises SpaceError if the value is invalid."""
        if self.words:
            if value not in self.words:
                known = nearest(value, self.words) if isinstance(value, str) else ""
                rule = f"must be one of {', '.join(self.words)}"
                raise SpaceError(rule, where=where, key=self.name, value=value, nearest=known)
            return str(value)
        if self.type is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if type(value) is not self.type:
            raise SpaceError(f"must be of type {self.type.__name__}", where=where, key=self.name, value=value)
        if self.type is int and self.name != "padding" and int(typing.cast(int, value)) < 0:
            raise SpaceError("must not be negative", where=where, key=self.name, value=value)
        return typing.cast(Scalar, value)


def _default_canonical_args(in_channels: int, args: Mapping[str, Any]) -> dict[str, Scalar]:
    return {}


@dataclass(frozen=True)
class BlockTraits:
    """What a block declares in addition to its signature.

    A block declares a trait by a class attribute (or static method) of the same name. Blocks of installed
    packages can declare them too. Every trait has a default.

    Attributes:
        canonical_args: `(in_channels, args) -> changes`, where `args` holds all keywords of the block. Returns
            new values for keywords, such that the block stays the same at this input. All spellings of one
            block must lead to the same values, so that it is measured and trained only once.
        width_keywords: The keywords that a width factor multiplies. Default: all that end in "_channels".
        alternating_keywords: Keywords whose values alternate from layer to layer. When a stage of two layers that
            differ only in these is repeated, both layers are repeated in turn.
        depth_keywords: Keywords of a head that a depth factor multiplies: its numbers of layers.
        repeatable: Whether a depth factor may repeat the block. False for blocks between stages.
        repeats_alone: Whether a depth factor may repeat a stage that consists of one such block without a skip.
    """

    width_keywords: tuple[str, ...]
    canonical_args: Callable[[int, Mapping[str, Any]], dict[str, Scalar]] = _default_canonical_args
    alternating_keywords: tuple[str, ...] = ()
    depth_keywords: tuple[str, ...] = ()
    repeatable: bool = True
    repeats_alone: bool = True


TRAITS = tuple(field.name for field in fields(BlockTraits))


@cache
def keywords(op: str) -> dict[str, Keyword]:
    """Return the keywords of the block `op`, in the order of its signature."""
    init = find_block(op).__init__
    hints = _hints(init)
    table = {}
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint = hints.get(name)
        words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        if not words and hint not in (bool, int, float, str):
            rule = f"the keyword '{name}' must be annotated with bool, int, float, str or Literal"
            raise SpaceError(rule, where=f"block '{op}'", value=parameter.annotation)
        table[name] = Keyword(name, str if words else typing.cast(type, hint), parameter.default, words)
    return table


def _hints(function: Any) -> dict[str, Any]:
    """Return the annotations of a function. Those that exist for type checkers only are left out."""
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        found = {}
        for name, hint in function.__annotations__.items():
            with contextlib.suppress(Exception):
                found[name] = typing.get_type_hints(_Annotated({name: hint}), function.__globals__)[name]
        return found


class _Annotated:
    """Holds annotations for `typing.get_type_hints`."""

    def __init__(self, annotations: dict[str, Any]):
        self.__annotations__ = annotations


@cache
def traits(op: str) -> BlockTraits:
    """Return what the block `op` declares, with defaults for the rest."""
    block = find_block(op)
    declared = {name: getattr(block, name) for name in TRAITS if hasattr(block, name)}
    widths = tuple(key for key in keywords(op) if key.endswith("_channels"))
    return BlockTraits(**{"width_keywords": widths, **declared})


@cache
def role(op: str) -> Role:
    """Return what `op` is, as its signature says.

    A "block" has `in_channels: int`; it reads one feature map and returns one. With `in_channels: tuple[int, ...]` it
    reads several: a "neck" returns a list of feature maps, as its `forward` is annotated, any other class is a "head".
    """
    block = find_block(op)
    if typing.get_origin(_hints(block.__init__).get("in_channels")) is not tuple:
        return "block"
    return "neck" if typing.get_origin(_hints(block.forward).get("return")) is list else "head"


@cache
def is_classifier(op: str) -> bool:
    """Whether `op` is a head with a number of classes and one output; heads of detectors return a tuple."""
    returned = typing.get_origin(_hints(find_block(op).forward).get("return"))
    return role(op) == "head" and returned is not tuple and "num_classes" in keywords(op)


def coding_of(op: str) -> str | None:
    """Return what the boxes of a detector's head mean, see `SelectBoxes`; None if `op` is no head of a detector."""
    coding: str | None = getattr(find_block(op), "coding", None)
    return coding


def is_detector_head(op: str) -> bool:
    """Whether `op` is a head of detectors whose boxes can be decoded."""
    return coding_of(op) is not None


def takes_maps(op: str) -> bool:
    """Whether `op` reads several feature maps, as necks and heads do."""
    return role(op) != "block"


def block_spec(op: str, args: Mapping[str, Any], where: str = "block") -> BlockSpec:
    """Return the canonical spec of the block `op`: checked and typed by its schema, without default values.

    Raises:
        SpaceError: The block or a keyword is unknown, a required keyword is missing, or a value is invalid.
    """
    find_block(op, where)
    known = keywords(op)
    checked = {}
    for key, value in args.items():
        if key not in known:
            raise SpaceError(f"block '{op}' has no keyword '{key}'", where=where, nearest=nearest(key, known))
        checked[key] = known[key].check(value, where)
    for key, keyword in known.items():
        if keyword.required and key not in checked:
            raise SpaceError(f"block '{op}' needs the keyword '{key}'", where=where)
    return BlockSpec.of(op, _without_defaults(op, checked))


def arguments(spec: BlockSpec) -> dict[str, Scalar]:
    """Return all keywords of a block with their values, including defaults."""
    return {key: spec.kwargs.get(key, keyword.default) for key, keyword in keywords(spec.op).items()}


def widths(spec: BlockSpec) -> dict[str, int]:
    """Return the channel counts that a block sets itself, by keyword. A count of 0 means unset and is left out."""
    names = traits(spec.op).width_keywords
    return {key: int(value) for key, value in arguments(spec).items() if key in names and value}


def simplify(spec: BlockSpec, in_channels: int) -> BlockSpec:
    """Return the one spec that all equivalent spellings of a block share at this input.

    For example, a skip around a block that changes the channels does nothing. Without simplification, the
    block with the skip and the one without would be measured and trained as two different blocks.
    """
    full = arguments(spec)
    changes = traits(spec.op).canonical_args(in_channels, full)
    return BlockSpec.of(spec.op, _without_defaults(spec.op, {**full, **changes})) if changes else spec


def block_sources(ops: Iterable[str]) -> dict[str, Any]:
    """Return {"block_source": digests}, by file, of the blocks of other packages among `ops`; {} without one."""
    modules = [op.partition(":")[0] if ":" in op else plugin_module(BLOCKS, op, "block") for op in sorted(set(ops))]
    digests = source_digests(*(module for module in modules if module))
    return {"block_source": digests} if digests else {}


def _without_defaults(op: str, args: Mapping[str, Scalar]) -> dict[str, Scalar]:
    known = keywords(op)
    return {key: value for key, value in args.items() if value != known[key].default}
