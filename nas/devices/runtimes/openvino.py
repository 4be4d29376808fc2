"""OpenVINO on the CPU, in one stream. It reads ONNX files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.support import DeviceArray, Inference, installed
from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn

HINTS = {"float16": "f16", "bfloat16": "bf16"}


class OpenVinoRuntime:
    """Exports ONNX; OpenVINO compiles it when loading, for `threads` threads. The device needs openvino and numpy.

    The precision is set always: OpenVINO's default is bfloat16 on processors that support it, with errors of 1e-3.
    """

    suffix = ".onnx"
    precision = "float32"
    selects_boxes = True

    def __init__(self, precision: str | None = None):
        self.precision = precision or self.precision

    def version(self) -> str:
        """Return openvino's version. Raises DeviceError without it or if the processor lacks the precision."""
        version = installed("openvino", "openvino", "openvino")
        needed = {"float16": "FP16", "bfloat16": "BF16"}.get(self.precision)
        if needed and needed not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise DeviceError(f"runtime 'openvino_{self.precision}': this processor has no {self.precision} arithmetic")
        return version

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write an ONNX file, as the runtime onnxruntime does."""
        OnnxRuntime().export(model, inputs, path)

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`."""
        import openvino

        compiled = self._compiled(path, threads)
        request, count = compiled.create_infer_request(), len(compiled.outputs)

        def give(arrays: Sequence[Any]) -> None:
            for index, array in enumerate(arrays):
                request.set_input_tensor(index, openvino.Tensor(array))

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            give(others)
            request.infer()
            return outputs

        def fetch(index: int) -> Any:
            return request.get_output_tensor(index).data

        give(inputs)
        outputs = [DeviceArray(functools.partial(fetch, index)) for index in range(count)]
        return run

    def _compiled(self, path: str, threads: int, **settings: Any) -> Any:
        hint = HINTS.get(self.precision, "f32")
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **settings}
        return _core().compile_model(path, "CPU", settings)

    def node_times(self, path: str, inputs: Sequence[Any], threads: int, runs: int) -> list[dict[str, Any]]:
        """Return the median time in ms of each node of the compiled graph, as OpenVINO's profiler reports it."""
        import openvino

        request = self._compiled(path, threads, PERF_COUNT=True).create_infer_request()
        for index, array in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(array))
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(runs + 2):
            request.infer()
            for node in request.get_profiling_info() if number > 1 else ():
                if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                    key = node.node_name, node.node_type
                    times.setdefault(key, []).append(node.real_time.total_seconds() * 1e3)
        return [{"name": name, "op": op, "ms": median(values)} for (name, op), values in times.items()]


@functools.cache
def _core() -> Any:
    """Return OpenVINO's core, cached: creating it takes longer than compiling a block."""
    import openvino

    return openvino.Core()
