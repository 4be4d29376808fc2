"""OpenVINO on the CPU, in float32 and one stream. It reads ONNX files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.support import DeviceArray, installed

if TYPE_CHECKING:
    from torch import Tensor, nn


class OpenVinoRuntime:
    """Exports ONNX; OpenVINO compiles it when loading, for `threads` threads. The device needs openvino and numpy.

    INFERENCE_PRECISION_HINT is f32: the default is bfloat16 on processors that support it, with errors of 1e-3.
    """

    suffix = ".onnx"
    selects_boxes = True

    def version(self) -> str:
        """Return openvino's version."""
        return installed("openvino", "openvino", "openvino")

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write an ONNX file, as the runtime onnxruntime does."""
        OnnxRuntime().export(model, inputs, path)

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return one inference on `inputs`."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = _core().compile_model(path, "CPU", settings)
        request, count = compiled.create_infer_request(), len(compiled.outputs)
        for index, array in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(array))

        def run() -> Sequence[Any]:
            request.infer()
            return outputs

        def fetch(index: int) -> Any:
            return request.get_output_tensor(index).data

        outputs = [DeviceArray(functools.partial(fetch, index)) for index in range(count)]
        return run


@functools.cache
def _core() -> Any:
    """Return OpenVINO's core, cached: creating it takes longer than compiling a block."""
    import openvino

    return openvino.Core()
