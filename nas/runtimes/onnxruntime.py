"""ONNX Runtime on the CPU: all graph optimisations, no spinning between operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18


class OnnxRuntime:
    """Exports ONNX at a fixed batch; runs it with `threads` intra-op threads."""

    suffix = ".onnx"

    def version(self) -> str:
        """Return onnxruntime's version."""
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceError(f"runtime 'onnxruntime' is not installed: pip install onnxruntime ({error})") from error
        return str(onnxruntime.__version__)

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write an ONNX file with inputs "input0", ... and outputs "output0", ..."""
        import torch

        names = [f"input{index}" for index in range(len(inputs))]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # The tracing exporter: the same graph as the torch.export one in a fiftieth of its time.
            torch.onnx.export(
                model, tuple(inputs), str(path), input_names=names, output_names=["output0"],
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return one inference on `inputs`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {node.name: inputs[index] for index, node in enumerate(session.get_inputs())}
        return lambda: session.run(None, feeds)
