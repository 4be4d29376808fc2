"""LiteRT in int8, quantized by ai-edge-quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.litert import LiteRtRuntime, _number
from nas.devices.runtimes.support import converting, installed

if TYPE_CHECKING:
    from torch import Tensor, nn


class LiteRtInt8Runtime(LiteRtRuntime):
    """Quantizes activations to int8, and weights to int8 with one scale for each channel."""

    suffix = ".int8.tflite"
    precision = "int8"
    selects_boxes = False

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a quantized flatbuffer. The N inputs (N, ...) decide the ranges. Raises ExportError, DeviceError."""
        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, converting("litert_int8"):
            installed("litert_int8", "ai_edge_quantizer", "ai-edge-quantizer")
            whole = Path(folder) / "float.tflite"
            super().export(model, [each[:1] for each in inputs], whole)
            path.write_bytes(_quantized(whole, inputs))
            self.load(str(path), [each[:1].numpy() for each in inputs], 1)()  # not all that is written can be run


def _quantized(whole: Path, inputs: Sequence[Tensor]) -> bytes:
    """Return the quantized flatbuffer of a file. Its inputs and outputs, and quotients, stay float32.

    LiteRT's division in int8 refuses a divisor that rounds to zero.
    """
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.qtyping import TFLOperationName

    work = quantizer.Quantizer(str(whole), recipe.static_wi8_ai8())
    for kept in (TFLOperationName.INPUT, TFLOperationName.OUTPUT, TFLOperationName.DIV):
        work.update_quantization_recipe(".*", kept, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    ranges = _ranges(whole, inputs, work.get_quantization_recipe())
    return bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)


def _ranges(whole: Path, inputs: Sequence[Tensor], recipe: Any) -> dict[str, Any]:
    """Return the smallest and the largest value of each tensor of a file, over all N inputs.

    The method of the quantizer itself takes a moving average, in which the last inputs decide.
    """
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = RecipeManager()
    manager.load_quantization_recipe(recipe)
    # Its faster mode, by the profiler, counts the -inf around the input of a max pooling.
    calibrator = Calibrator(whole.read_bytes(), num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate(_feeds(whole, inputs), manager)
    ranges: dict[str, Any] = calibrator.get_model_qsvs()
    return ranges


def _feeds(whole: Path, inputs: Sequence[Tensor]) -> dict[str, list[dict[str, Any]]]:
    """Return the inputs (N, ...) as N arrays (1, ...) by their names, under the name of the file's only signature."""
    from ai_edge_litert.interpreter import Interpreter

    ((signature, ends),) = Interpreter(str(whole)).get_signature_list().items()
    names = sorted(ends["inputs"], key=_number)
    rows = zip(*(each.numpy()[:, None] for each in inputs))
    return {signature: [dict(zip(names, row)) for row in rows]}
