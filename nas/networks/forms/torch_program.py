"""The network as a program of torch.export, which runs without model.py."""

from __future__ import annotations

import torch
from torch import nn

from nas.devices.runtimes.support import converting
from nas.networks.deployment import deploy
from nas.networks.exported_folder import check_input
from nas.networks.exported_outputs import batch_of, check_close
from nas.networks.forms.base import Source, Written
from nas.networks.outputs import compared

BATCHES = (1, 3)
MOST_IMAGES = 1024
TOLERANCE = 1e-4


@torch.no_grad()
def write_program(source: Source) -> Written:
    """A program of torch.export, as model.pt2: it runs without model.py, on any number of images up to 1,024.

    Raises ExportError if its output differs.
    """
    path, network = source.folder / "model.pt2", deploy(source.model)
    image = check_input(source.arch.input_shape)
    with converting("torch"):
        batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
        program = torch.export.export(network, (batch_of(image, 2),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
        again: nn.Module = torch.export.load(path).module()
    for size in BATCHES:
        images = batch_of(image, size)
        check_close(compared(again(images)), compared(source.model(images)), TOLERANCE, path)
    return Written(path.name)
