"""A block's signature is its schema: keywords, types and defaults are read from `__init__`, nowhere else."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from nas.architecture import BlockSpec, Scalar
from nas.errors import SpaceError
from nas.networks.blocks import BLOCKS
from nas.networks.blocks.layers import skip_layer
from nas.utils.registry import lookup, nearest


@dataclass(frozen=True)
class Keyword:
    """One keyword of a block: `type` is bool, int, float or str; `words` are the allowed strings, if listed."""

    name: str
    type: type
    default: Any
    words: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the block cannot be built without it."""
        return self.default is inspect.Parameter.empty

    def check(self, value: object, where: str) -> Scalar:
        """Return `value` in this keyword's type. Raises SpaceError with the rule and the value."""
        if self.words:
            if value not in self.words:
                known = nearest(value, self.words) if isinstance(value, str) else ""
                raise SpaceError(f"{where}: {self.name} must be one of {', '.join(self.words)}: {value!r}{known}")
            return str(value)
        if self.type is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if type(value) is not self.type:
            raise SpaceError(f"{where}: {self.name} must be of type {self.type.__name__}: {value!r}")
        if self.type is int and self.name != "padding" and int(typing.cast(int, value)) < 0:
            raise SpaceError(f"{where}: {self.name} must not be negative: {value!r}")
        return typing.cast(Scalar, value)


@cache
def keywords(op: str) -> dict[str, Keyword]:
    """Return the keywords of the block `op`, in the order of its signature."""
    init = BLOCKS[op].__init__ if op in BLOCKS else lookup(BLOCKS, op, "block", error=SpaceError).__init__
    hints = typing.get_type_hints(init)
    table = {}
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint = hints[name]
        words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        table[name] = Keyword(name, str if words else hint, parameter.default, words)
    return table


@cache
def takes_maps(op: str) -> bool:
    """Whether `op` is a neck or a head, which reads several feature maps."""
    block = lookup(BLOCKS, op, "block", error=SpaceError)
    origin: object = typing.get_origin(typing.get_type_hints(block.__init__).get("in_channels"))
    return origin is tuple


def block_spec(op: str, args: Mapping[str, Any], where: str = "block") -> BlockSpec:
    """Return the canonical spec of `op`: checked, in the types of its schema, defaults left out.

    Raises SpaceError for an unknown block or keyword, a missing one, or a value of the wrong type.
    """
    lookup(BLOCKS, op, "block", where, SpaceError)
    known = keywords(op)
    checked = {}
    for key, value in args.items():
        if key not in known:
            raise SpaceError(f"{where}: block '{op}' has no keyword '{key}'{nearest(key, known)}")
        checked[key] = known[key].check(value, where)
    for key, keyword in known.items():
        if keyword.required and key not in checked:
            raise SpaceError(f"{where}: block '{op}' needs the keyword '{key}'")
    return BlockSpec.of(op, {key: value for key, value in checked.items() if value != known[key].default})


def arguments(spec: BlockSpec) -> dict[str, Scalar]:
    """Return every keyword of a block with its value, the defaults included."""
    return {key: spec.kwargs.get(key, keyword.default) for key, keyword in keywords(spec.op).items()}


def _no_skip(in_channels: int, args: Mapping[str, Any]) -> bool:
    """Whether the skip is none here whatever it is called: as written, and as the block's own default has it."""
    words = ("identity", args["skip"])
    return all(skip_layer(word, in_channels, args["out_channels"], args["stride"]) is None for word in words)


def _no_identity(in_channels: int, args: Mapping[str, Any]) -> bool:
    return bool(args["stride"] != 1 or in_channels != args["out_channels"])


_INERT: dict[str, Callable[[int, Mapping[str, Any]], bool]] = {
    "skip": _no_skip,
    "identity": _no_identity,
    "se_from": lambda _, args: not args["se_ratio"],
    "bypass": lambda in_channels, args: args["bypass"] == "identity" and in_channels != args["out_channels"],
    "shortcut": _no_identity,
    "compression": lambda _, args: bool(args["out_channels"]),
}
_SAME: dict[tuple[str, Scalar], Callable[[int, Mapping[str, Any]], Scalar]] = {
    ("bypass", "conv"): lambda in_channels, args: "identity" if in_channels == args["out_channels"] else "conv",
}


def simplify(spec: BlockSpec, in_channels: int) -> BlockSpec:
    """Drop the keywords that change nothing at this input, so that equal blocks have equal specs.

    A skip around a block that changes the channels is no skip: left in, it would be measured and trained
    as another block.
    """
    written = [key for key, _ in spec.args if key in _INERT]
    if not written or spec.op not in BLOCKS:  # what a keyword of another package's block means is not known
        return spec
    full = arguments(spec)
    inert = {key for key in written if _INERT[key](in_channels, full)}
    kept = {key: value for key, value in spec.args if key not in inert}
    same = {key: _SAME[key, value](in_channels, full) for key, value in kept.items() if (key, value) in _SAME}
    return BlockSpec.of(spec.op, {**kept, **same})
