"""A training's state in one file: written whole or not at all, and never another training's."""

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


def save_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state`, of tensors and plain values, as that of the training that `identity` describes.

    A kill at any moment leaves the file before or the file after. Raises WeightsError where the disk refuses it.
    """
    buffer = io.BytesIO()  # torch's own writer hides what the disk said
    torch.save({"format": FORMAT, "identity": dict(identity), "state": dict(state)}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getbuffer())
    except OSError as error:
        raise WeightsError(f"{path}: the checkpoint cannot be written: {error.strerror or error}") from error


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state that was saved for the training of `identity`, None where there is no file.

    Nothing of the file is executed. Raises WeightsError where it is no checkpoint or of another training.
    """
    if not path.exists():
        return None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a parser does with bytes that are no checkpoint
        raise WeightsError(f"{path}: not a checkpoint: {(str(error).splitlines() or [''])[0][:160]}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a checkpoint of a training, or of another version of this program")
    known, state = stored.get("identity"), stored.get("state")
    if not isinstance(known, dict) or not isinstance(state, dict):
        raise WeightsError(f"{path}: not a checkpoint of a training: its parts are missing")
    for key in [*identity, *(key for key in known if key not in identity)]:
        if known.get(key) != identity.get(key):
            raise WeightsError(
                f"{path}: is of another training: {key} is {known.get(key)!r} there and {identity.get(key)!r} now"
            )
    return state


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return sixteen hex digits of a state dict's names, shapes and values; on the meta device there are no values."""
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype};".encode())
        if not value.is_meta:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
