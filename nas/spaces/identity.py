"""Stable digests of spaces, independent of class names.

Latency tables, run folders and supernets refer to spaces by these digests, so the digests must never change. This
module therefore writes the hashed text itself instead of using `repr`. The text, format 1, is the `repr` of the
original classes Slot, Operator, Proxy and FinalTraining. Leave a new field out of the text while it has its default
value. tests/golden/identities.json holds the digests of all shipped spaces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Protocol


class StageLike(Protocol):
    """The fields of a stage that define the networks of a space."""

    @property
    def name(self) -> str:
        """Return the name, such as "stage3"."""

    @property
    def operators(self) -> tuple[Any, ...]:
        """Return the blocks to choose from, each with `label`, `block` and `args`."""

    @property
    def depth(self) -> tuple[int, ...]:
        """Return the numbers of layers to choose from."""

    @property
    def args(self) -> tuple[tuple[str, Any], ...]:
        """Return the keywords that apply to all operators, with their values."""

    @property
    def per_layer(self) -> frozenset[str]:
        """Return the keywords that each layer chooses for itself."""

    @property
    def alternate(self) -> tuple[tuple[str, Any], ...]:
        """Return the keywords whose values the layers take in turn."""

    @property
    def tap(self) -> bool:
        """Return whether neck and head read the stage's last feature map."""


def hex_digest(text: str, digits: int = 16) -> str:
    """Return the first `digits` hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(value: Any) -> str:
    """Return sixteen hex digits of the SHA-256 of `value` as canonical JSON: sorted keys, no spaces."""
    return hex_digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def record_text(name: str, /, **fields: str) -> str:
    """Return "Name(key=text, ...)"."""
    return f"{name}({', '.join(f'{key}={text}' for key, text in fields.items())})"


def settings_text(name: str, settings: object, *keys: str) -> str:
    """Return "Name(key=repr, ...)" with the attributes `keys` of `settings`."""
    return record_text(name, **{key: repr(getattr(settings, key)) for key in keys})


def tuple_text(parts: Iterable[str]) -> str:
    """Return the `repr` of a tuple whose elements have the `repr` texts `parts`."""
    texts = list(parts)
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def stage_text(stage: StageLike) -> str:
    """Return the text of a stage or head in format 1."""
    operators = (
        record_text("Operator", label=repr(op.label), block=repr(op.block), args=repr(op.args))
        for op in stage.operators
    )
    names = ", ".join(map(repr, sorted(stage.per_layer)))
    tapped = {"tap": "True"} if stage.tap else {}
    return record_text(
        "Slot",
        name=repr(stage.name),
        operators=tuple_text(operators),
        depth=repr(stage.depth),
        args=repr(stage.args),
        per_layer=f"frozenset({{{names}}})" if names else "frozenset()",
        alternate=repr(stage.alternate),
        **tapped,
    )
