"""LiteRT (TensorFlow Lite) on the CPU with its XNNPACK delegate; models are converted by litert-torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import DeviceArray, Inference, converting, installed, quick_decompositions, silent

if TYPE_CHECKING:
    from torch import Tensor, nn


class LiteRtRuntime:
    """Exports .tflite with inputs in NCHW and runs it with `threads` threads.

    The device needs ai-edge-litert and numpy. The graph is channels-last inside, with a transposition at both ends.
    """

    suffix = ".tflite"
    precision = "float32"
    selects_boxes = True

    def version(self) -> str:
        """Return ai-edge-litert's version."""
        return installed("litert", "ai_edge_litert", "ai-edge-litert")

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a flatbuffer with inputs "args_0", ... Raises ExportError, DeviceError without litert-torch."""
        import torch

        with converting("litert"):
            installed("litert", "litert_torch", "litert-torch")
            import litert_torch

            with torch.no_grad(), quick_decompositions():
                litert_torch.convert(model, tuple(inputs)).export(str(path))

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`."""
        from ai_edge_litert.interpreter import Interpreter

        with silent():
            interpreter = Interpreter(path, num_threads=threads)
            interpreter.allocate_tensors()
        # The inputs are in arbitrary order; their names contain our index: serving_default_args_1.
        ordered = sorted(interpreter.get_input_details(), key=lambda detail: _number(detail["name"]))
        # So are the outputs: StatefulPartitionedCall:1.
        details = sorted(interpreter.get_output_details(), key=lambda detail: _last_number(detail["name"]))
        outputs = [DeviceArray(partial(interpreter.get_tensor, detail["index"])) for detail in details]

        def give(arrays: Sequence[Any]) -> None:
            for detail, array in zip(ordered, arrays):
                interpreter.set_tensor(detail["index"], array)

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            give(others)
            interpreter.invoke()
            return outputs

        give(inputs)
        return run


def _last_number(name: str) -> int:
    return int((re.findall(r"\d+", name) or ["0"])[-1])


def _number(name: str) -> int:
    (number,) = re.findall(r"args_(\d+)", name)
    return int(number)
