"""Names of tensors: those of an exported network are its stages' own, "stage3.0.conv.0.weight"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_OURS = re.compile(r"^(stages|neck)\.(\d+)\.")
_EXPORTED = re.compile(r"^(stage|neck)(\d+)\.")


def exported_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names of an exported network: "stage0.1.weight" for "stages.0.1.weight"."""
    return {_OURS.sub(lambda m: f"{m[1].removesuffix('s')}{m[2]}.", key): value for key, value in state.items()}


def internal_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names of `Network`, from one of an exported network. Other names stay."""
    if not all(_EXPORTED.match(key) or key.startswith("head.") for key in state):
        return dict(state)
    plural = {"stage": "stages", "neck": "neck"}
    return {_EXPORTED.sub(lambda m: f"{plural[m[1]]}.{m[2]}.", key): value for key, value in state.items()}
