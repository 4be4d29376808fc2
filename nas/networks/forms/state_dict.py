"""Weights as a file of torch.save, for users without safetensors."""

from __future__ import annotations

import torch

from nas.errors import ExportError
from nas.networks.forms.base import Source, Written
from nas.networks.standalone.state_names import exported_state


def write_state_dict(source: Source) -> Written:
    """Weights for torch.load, as model.pt: model.py reads it without safetensors.

    Raises ExportError if the file does not hold the weights.
    """
    path, state = source.folder / "model.pt", exported_state(source.model.state_dict())
    torch.save(state, path)
    again = torch.load(path, map_location="cpu", weights_only=True)
    if again.keys() != state.keys() or not all(torch.equal(again[key], state[key]) for key in state):
        raise ExportError("does not hold the weights that were written", where=path)
    return Written(path.name)
