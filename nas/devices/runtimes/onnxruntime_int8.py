"""ONNX Runtime in int8: static quantization to QDQ nodes by `onnxruntime.quantization`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.onnxruntime import OnnxRuntime, names_of
from nas.devices.runtimes.support import converting

if TYPE_CHECKING:
    from torch import Tensor, nn


class OnnxInt8Runtime(OnnxRuntime):
    """Quantizes activations to uint8, and weights to int8 with one scale for each channel.

    Weights have seven bits: on processors of AVX2 without VNNI, sums of products with eight bits overflow, which costs
    a fifth of the top-1 agreement (docs/precision.md).
    """

    suffix = ".int8.onnx"
    precision = "int8"
    selects_boxes = False

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a quantized ONNX file. The N inputs (N, ...) decide the ranges. Raises ExportError."""
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            """Yields the inputs one by one."""

            def __init__(self, feeds: Iterator[dict[str, Any]]):
                self._feeds = feeds

            def get_next(self) -> dict[str, Any] | None:
                return next(self._feeds, None)

        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, converting("onnxruntime_int8"):
            whole, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
            super().export(model, [each[:1] for each in inputs], whole)
            quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(path),
                Reader(one_by_one(inputs)),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )


def one_by_one(inputs: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
    """Yield the inputs (N, ...) as N arrays (1, ...) by the names of the graph's inputs."""
    names = names_of("images", len(inputs))
    for index in range(len(inputs[0])):
        yield {name: each[index : index + 1].numpy() for name, each in zip(names, inputs)}
