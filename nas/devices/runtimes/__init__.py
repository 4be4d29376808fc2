"""Runtimes that networks are deployed to and measured in: one file each, which imports its library inside functions.

A runtime exports a module on the host and loads the file on the device. To add one, write a file and add a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nas.devices.runtimes.executorch import ExecuTorchRuntime
from nas.devices.runtimes.litert import LiteRtRuntime
from nas.devices.runtimes.ncnn import NcnnRuntime
from nas.devices.runtimes.null import NullRuntime
from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.openvino import OpenVinoRuntime
from nas.devices.runtimes.torch import TorchRuntime
from nas.devices.runtimes.torch_compile import TorchCompileRuntime
from nas.errors import DeviceError
from nas.utils.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runtime(Protocol):
    """The contract of a runtime.

    Optional methods: `clock() -> ns`, if time is simulated; `peak_memory(path) -> bytes`, if memory is simulated;
    `flusher(bytes) -> callable or None`, if the cache to evict is not the processor's.

    Attributes:
        suffix: Suffix of exported files.
        selects_boxes: Whether it has the operators of a detector's post-processing.
    """

    suffix: str
    selects_boxes: bool

    def version(self) -> str:
        """Return the version that runs on the device. Raises DeviceError if it is not installed."""

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a model as one file. Runs on the host and may use torch.

        Args:
            model: The model, in eval mode and deployed.
            inputs: Example inputs; they fix the shapes.
            path: The file to write.

        Raises:
            ExportError: The runtime cannot express the model.
        """

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return a function that runs one inference on `inputs`. Runs on the device.

        Args:
            path: The exported file.
            inputs: float32 numpy arrays.
            threads: Number of threads.

        Returns:
            A function whose results `numpy.asarray` converts to the outputs. They are valid until the next call.
        """


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "onnxruntime_cuda": partial(OnnxRuntime, device="cuda"),
    "torch": TorchRuntime,
    "torch_cuda": partial(TorchRuntime, device="cuda"),
    "torch_compile": TorchCompileRuntime,
    "openvino": OpenVinoRuntime,
    "executorch": ExecuTorchRuntime,
    "litert": LiteRtRuntime,
    "ncnn": NcnnRuntime,
    "null": NullRuntime,
}


def selects_boxes(name: str) -> bool:
    """Return whether a runtime has the operators of a detector's post-processing; True for unknown ones."""
    return name not in RUNTIMES or RUNTIMES[name]().selects_boxes


def find_runtime(name: str) -> Runtime:
    """Return the runtime called `name`, installed or not. Raises UsageError for an unknown name."""
    runtime: Runtime = lookup(RUNTIMES, name, "runtime", "--runtime")()
    return runtime


def run_once(name: str, path: Path, image: Tensor) -> list[Tensor]:
    """Return the outputs of an exported file for one input.

    There are none if only the target device has the runtime's library, or if the runtime computes nothing.
    """
    import numpy as np
    import torch

    try:
        runtime = make_runtime(name)
    except DeviceError:
        return []
    return [torch.as_tensor(np.array(output)) for output in runtime.load(str(path), [image.numpy()], 1)()]


def make_runtime(name: str) -> Runtime:
    """Return the runtime called `name`. Raises UsageError for an unknown name, DeviceError if it is not installed."""
    runtime = find_runtime(name)
    runtime.version()
    return runtime
