"""OpenVINO in int8, quantized by NNCF."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.onnxruntime_int8 import one_by_one
from nas.devices.runtimes.openvino import OpenVinoRuntime
from nas.devices.runtimes.support import converting, installed

if TYPE_CHECKING:
    from torch import Tensor, nn


class OpenVinoInt8Runtime(OpenVinoRuntime):
    """Quantizes weights and activations of the ONNX graph; what stays in floating point is computed in float32."""

    suffix = ".int8.xml"
    precision = "int8"
    selects_boxes = False

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write OpenVINO's two files. The N inputs (N, ...) decide the ranges. Raises ExportError, DeviceError."""
        installed("openvino_int8", "nncf", "nncf")
        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, converting("openvino_int8"):
            import nncf
            import openvino

            whole = Path(folder) / "float.onnx"
            OnnxRuntime().export(model, [each[:1] for each in inputs], whole)
            images = list(one_by_one(inputs))
            quantized = nncf.quantize(openvino.Core().read_model(whole), nncf.Dataset(images), subset_size=len(images))
            openvino.save_model(quantized, path, compress_to_fp16=False)
