"""Checks of exported files: their outputs beside those of the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.devices.runtimes import find_runtime, run_once
from nas.devices.runtimes.onnxruntime import OnnxForm
from nas.devices.runtimes.onnxruntime_int8 import noisiest_layer
from nas.errors import ExportError
from nas.networks.outputs import compared

SMALLEST_DIFFERENCE = 1e-30
"""A difference that is always allowed."""
CHECKED_IMAGES = 8
"""Images on which a file in a lower precision is checked."""
BATCHES = (1, 2, 8)
"""Batch sizes at which a file is checked that takes any."""


def check_python(path: Path) -> None:
    """Run an exported model.py as a user would: in a new process that cannot import this package.

    Raises ExportError if it does not run, or if its output is not the one in its card.
    """
    command = [sys.executable, "-I", str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportError(f"does not run: {last}", where=path)


def compared_outputs(outputs: list[Tensor]) -> Tensor:
    """Return what is compared of the outputs of a file, one or several; see `compared`."""
    return compared(outputs[0] if len(outputs) == 1 else outputs)


def batch_of(image: Tensor, size: int) -> Tensor:
    """Return different images (size, C, H, W) from one (1, C, H, W)."""
    return image * torch.linspace(0.5, 1, size).reshape(-1, 1, 1, 1)


def check_close(output: Tensor, expected: Tensor, tolerance: float, path: Path) -> None:
    """Raise ExportError, which names the file, if its output differs from the network's.

    Args:
        output: The output of the file.
        expected: The output of the network.
        tolerance: The largest allowed difference, relative to the largest output.
        path: The file.
    """
    output, expected = output.double(), expected.double()
    allowed = tolerance * expected.abs().max().item() + SMALLEST_DIFFERENCE
    if not torch.allclose(output, expected, rtol=tolerance, atol=allowed, equal_nan=True):
        difference = (output - expected).abs().max().item()
        rule = f"its output differs from the network's by {difference:.2g}, more than {allowed:.2g}"
        raise ExportError(rule, where=path)


@torch.no_grad()
def check_batches(
    model: nn.Module, folder: Path, runtime: str, form: OnnxForm, image: Tensor, tolerance: float
) -> bool:
    """Check an ONNX file that does not take single images only, and return whether it is one.

    Args:
        model: The network.
        folder: The exported folder.
        runtime: The runtime that is checked.
        form: How the ONNX file was written.
        image: An input (1, C, H, W).
        tolerance: See `check_close`.

    Raises:
        ExportError: The outputs differ.
    """
    path = folder / f"model{find_runtime(runtime).suffix}"
    if form.batch == 1 or path.suffix != ".onnx":
        return False
    for batch in BATCHES if form.batch is None else (form.batch,):
        images = batch_of(image, batch)
        if not (outputs := run_once(runtime, path, images)):  # only the device has the library
            break
        check_close(compared_outputs(outputs), compared(model(images)), tolerance, path)
    return True


@torch.no_grad()
def check_reduced(model: nn.Module, path: Path, name: str, images: Tensor, are_real: bool) -> None:
    """Raise ExportError if a file in a lower precision is useless: its output is not finite, or at chance.

    Args:
        model: The network.
        path: The file.
        name: The name of its runtime.
        images: Inputs (N, C, H, W).
        are_real: Whether they are images. Then the error has to be smaller than what tells one from another.
    """
    some = images[:: max(1, len(images) // CHECKED_IMAGES)]
    outputs = [run_once(name, path, image) for image in torch.split(some, 1)]
    if not all(outputs):
        return
    found, expected = torch.cat([each[0] for each in outputs]).double(), model(some).double()
    if not found.isfinite().all():
        raise ExportError("its output is not finite", where=path)
    error, spread = (found - expected).square().mean().item(), expected.var(0).mean().item()
    if are_real and error >= spread > 0:
        rule = f"the error of its output ({error:.2g}) is not below what tells images apart ({spread:.2g})"
        raise ExportError(rule + _where_it_is_lost(path, name, some), where=path)


def _where_it_is_lost(path: Path, runtime: str, images: Tensor) -> str:
    """Return in words which layer of a quantized file loses most; "" if its runtime has no tool that knows."""
    if runtime != "onnxruntime_int8":
        return ""
    layer, share = noisiest_layer(path.with_name("model.onnx"), path, images)
    return f"; the layer that loses most is '{layer}' (an error of {share:.0%})"
