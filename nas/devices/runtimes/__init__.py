"""The runtimes that networks are deployed to and measured in. One file each, its library imported inside.

A runtime exports a module on the host and loads the file on the device. To add one: write a file, add a line here.
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
from nas.utils.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runtime(Protocol):
    """What a runtime file provides.

    Optional: `clock() -> ns`, where time is not the machine's, and `flusher(bytes) -> callable or None`, where the
    cache that must be cold is not the processor's.
    """

    suffix: str

    def version(self) -> str:
        """Return the version of what runs on the device. Raises DeviceError where that is missing."""

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write `model`, in eval mode and deployed, for inputs of these shapes, as one file. Host side, may use torch.

        Raises ExportError where the runtime cannot express it.
        """

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return one inference on `inputs`, float32 numpy arrays, as a call. Device side.

        What it returns is what `numpy.asarray` makes the outputs of; it holds until the next call.
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


def find_runtime(name: str) -> Runtime:
    """Return the runtime called `name`, whether or not its library is here. Raises UsageError for an unknown one."""
    runtime: Runtime = lookup(RUNTIMES, name, "runtime", "--runtime")()
    return runtime


def make_runtime(name: str) -> Runtime:
    """Return the runtime called `name`. Raises UsageError for an unknown one, DeviceError without its library."""
    runtime = find_runtime(name)
    runtime.version()
    return runtime
