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
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, converting("onnxruntime_int8"):
            whole, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
            super().export(model, [each[:1] for each in inputs], whole)
            quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(path),
                _reader(inputs),
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


def _reader(inputs: Sequence[Tensor]) -> Any:
    """Return what ONNX Runtime reads calibration images from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Yields the inputs one by one."""

        def __init__(self) -> None:
            self._feeds = one_by_one(inputs)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    return Reader()


def noisiest_layer(whole: Path, quantized: Path, images: Tensor) -> tuple[str, float]:
    """Return the output that quantization changes most, and its error as a share of what tells images apart.

    Args:
        whole: The ONNX file in float32.
        quantized: The quantized ONNX file.
        images: Normalized images (N, C, H, W).
    """
    import numpy as np
    from onnxruntime.quantization import qdq_loss_debug as debug

    def share(expected: Sequence[Any], found: Sequence[Any]) -> float:
        values = np.stack(expected).astype(np.float64)
        error = np.square(values - np.stack(found)).mean()
        return float(error / max(values.var(0).mean(), 1e-30))

    activations = []
    with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder:
        for path in (whole, quantized):
            with_outputs = str(Path(folder) / path.name)
            debug.modify_model_output_intermediate_tensors(str(path), with_outputs)
            activations.append(debug.collect_activations(with_outputs, _reader([images])))
    pairs = debug.create_activation_matching(activations[1], activations[0])
    both = {name: each for name, each in pairs.items() if "float" in each}
    shares = {name: each["xmodel_err"] for name, each in debug.compute_activation_error(both, share).items()}
    worst = max(shares, key=lambda name: shares[name])
    return worst, shares[worst]
