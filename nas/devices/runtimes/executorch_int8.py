"""ExecuTorch in int8, quantized by torchao with the quantizer of the XNNPACK backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.executorch import ExecuTorchRuntime
from nas.devices.runtimes.support import converting, installed

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

BATCH = 16
"""Inputs that run at once while the ranges are found: the histograms of 128 single ones take a minute."""


class ExecuTorchInt8Runtime(ExecuTorchRuntime):
    """Quantizes activations to int8, and weights to int8 with one scale for each channel.

    Operators that XNNPACK's quantizer does not know, such as hard-swish, are computed in float32.
    """

    suffix = ".int8.pte"
    precision = "int8"
    selects_boxes = False

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a quantized program. The N inputs (N, ...) decide the ranges. Raises ExportError, DeviceError."""
        with converting("executorch_int8"):
            installed("executorch_int8", "torchao", "torchao")
            super().export(_quantized(model, inputs), [each[:1] for each in inputs], path)


def _quantized(model: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Return a graph of the model that quantizes and dequantizes. The N inputs (N, ...) decide the ranges."""
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    with torch.no_grad():
        program, batches = _traced(model, inputs)
        prepared = prepare_pt2e(program.module(), xnnpack_quantizer.XNNPACKQuantizer().set_global(config))
        for batch in batches:
            prepared(*batch)
        quantized: nn.Module = convert_pt2e(prepared)
    return quantized


def _traced(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[ExportedProgram, list[tuple[Tensor, ...]]]:
    """Return the program of a model, and the inputs in batches of a size that it takes."""
    import torch

    collection: Any = torch.export.ShapesCollection
    for size in (BATCH, 1):
        batches = list(zip(*(torch.split(each, size) for each in inputs)))
        shapes = collection()
        for each in batches[0]:
            shapes[each] = {0: torch.export.Dim.AUTO}
        try:
            program = torch.export.export(model, batches[0], dynamic_shapes=shapes, strict=False)
        except Exception:
            if size == 1:
                raise
            continue
        if program.range_constraints:  # otherwise it takes only batches of the size that it was traced with
            break
    return program, batches
