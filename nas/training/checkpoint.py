"""Checkpoints: the state of a training in one file, which belongs to exactly one training."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import WeightsError
from nas.utils.files import write_bytes

FORMAT = 1
RENEWED = "first_weights_of"
"""The entry of the identity of networks whose first weights once were others."""


def save_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint. If the process is killed, the old file or the new one remains, never a part.

    Args:
        path: The file.
        identity: The settings that identify the training.
        state: Tensors and plain values.

    Raises:
        WeightsError: The file cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writer hides the disk's error message
    torch.save({"format": FORMAT, "identity": dict(identity), "state": dict(state)}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getbuffer())
    except OSError as error:
        raise WeightsError(f"the checkpoint cannot be written: {error.strerror or error}", where=path) from error


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state in a checkpoint, or None if the file does not exist. Nothing in the file is executed.

    Raises:
        WeightsError: The file is not a checkpoint, or belongs to a training with another `identity`.
    """
    if not path.exists():
        return None
    owner, state = _read(path)
    renewed = RENEWED in identity and RENEWED not in owner  # written before these first weights were changed
    for key in [*identity, *(key for key in owner if key not in identity)]:
        if renewed and key in (RENEWED, "first_weights"):
            continue
        if owner.get(key) != identity.get(key):
            rule = f"belongs to another training: {key} is {owner.get(key)!r} there and {identity.get(key)!r} now"
            raise WeightsError(rule, where=path)
    return state


def saved_epochs(path: Path) -> int:
    """Return how many epochs the training of a checkpoint has finished; 0 if there is none that can be read."""
    try:
        curve = _read(path)[1].get("curve")
    except WeightsError:
        return 0
    return len(curve) if isinstance(curve, list) else 0


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the identity and the state in a checkpoint. Raises WeightsError if the file is none."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parser raises all kinds of errors for other files
        raise WeightsError(f"not a checkpoint: {(str(error).splitlines() or [''])[0][:160]}", where=path) from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise WeightsError("not a checkpoint of a training, or written by another version", where=path)
    owner, state = stored.get("identity"), stored.get("state")
    if not isinstance(owner, dict) or not isinstance(state, dict):
        raise WeightsError("not a checkpoint of a training: it has no identity or no state", where=path)
    return owner, state


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return sixteen hex digits of a state dict's names, shapes and, except on the meta device, values."""
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype};".encode())
        if not value.is_meta:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
