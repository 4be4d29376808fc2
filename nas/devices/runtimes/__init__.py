"""Runtimes that networks are deployed to and measured in: one file each, which imports its library inside functions.

A runtime exports a module on the host and loads the file on the device. To add one, write a file and add a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nas.devices.runtimes.executorch import ExecuTorchRuntime
from nas.devices.runtimes.executorch_int8 import ExecuTorchInt8Runtime
from nas.devices.runtimes.litert import LiteRtRuntime
from nas.devices.runtimes.litert_int8 import LiteRtInt8Runtime
from nas.devices.runtimes.ncnn import NcnnRuntime
from nas.devices.runtimes.null import NullRuntime
from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.onnxruntime_int8 import OnnxInt8Runtime
from nas.devices.runtimes.openvino import OpenVinoRuntime
from nas.devices.runtimes.openvino_int8 import OpenVinoInt8Runtime
from nas.devices.runtimes.support import Inference
from nas.devices.runtimes.torch import TorchRuntime
from nas.devices.runtimes.torch_compile import TorchCompileRuntime
from nas.errors import DeviceError, ExportError, UsageError
from nas.utils.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runtime(Protocol):
    """The contract of a runtime.

    Optional methods: `node_times(path, inputs, threads, runs)`, the nodes of a graph as {"name", "op", "ms"}, if the
    runtime has a profiler; `clock() -> ns`, if time is simulated; `peak_memory(path) -> bytes`, if memory is simulated;
    `flusher(bytes) -> callable or None`, if the cache to evict is not the processor's.

    Attributes:
        suffix: Suffix of exported files.
        precision: The numbers that networks compute with, one of `PRECISIONS`. Inputs and outputs are float32.
        selects_boxes: Whether it has the operators of a detector's post-processing.
    """

    suffix: str
    precision: str
    selects_boxes: bool

    def version(self) -> str:
        """Return the version that runs on the device. Raises DeviceError if it is not installed."""

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a model as one file. Runs on the host and may use torch.

        Args:
            model: The model, in eval mode and deployed.
            inputs: Example inputs (1, ...); they fix the shapes. A runtime in int8 takes (N, ...): networks have a
                batch size of 1, and the N examples decide the ranges of all activations.
            path: The file to write.

        Raises:
            ExportError: The runtime cannot express the model.
        """

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return a function that runs one inference on `inputs`, or on other such arrays. Runs on the device.

        Args:
            path: The exported file.
            inputs: float32 numpy arrays.
            threads: Number of threads.

        Returns:
            A function whose results `numpy.asarray` converts to the outputs. They are valid until the next call. Called
            with a list of arrays, it reads these from then on.
        """


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "onnxruntime_cuda": partial(OnnxRuntime, device="cuda"),
    "onnxruntime_int8": OnnxInt8Runtime,
    "torch": TorchRuntime,
    "torch_float16": partial(TorchRuntime, precision="float16"),
    "torch_bfloat16": partial(TorchRuntime, precision="bfloat16"),
    "torch_cuda": partial(TorchRuntime, device="cuda"),
    "torch_cuda_float16": partial(TorchRuntime, device="cuda", precision="float16"),
    "torch_cuda_bfloat16": partial(TorchRuntime, device="cuda", precision="bfloat16"),
    "torch_compile": TorchCompileRuntime,
    "openvino": OpenVinoRuntime,
    "openvino_float16": partial(OpenVinoRuntime, precision="float16"),
    "openvino_bfloat16": partial(OpenVinoRuntime, precision="bfloat16"),
    "openvino_int8": OpenVinoInt8Runtime,
    "executorch": ExecuTorchRuntime,
    "executorch_int8": ExecuTorchInt8Runtime,
    "litert": LiteRtRuntime,
    "litert_int8": LiteRtInt8Runtime,
    "ncnn": NcnnRuntime,
    "ncnn_float16": partial(NcnnRuntime, precision="float16"),
    "null": NullRuntime,
    "null_int8": partial(NullRuntime, precision="int8"),
}
"""The runtimes. One that computes in other numbers than float32 has their name at its end."""

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def precision_of(name: str) -> str:
    """Return the precision of a runtime. One of another package may have none: then it is float32."""
    return str(getattr(find_runtime(name), "precision", "float32"))


def with_precision(name: str, precision: str) -> str:
    """Return the name of the runtime `name` in a precision, one of `PRECISIONS`.

    Raises UsageError if the runtime or the precision is unknown, or if the runtime does not have this precision.
    """
    lookup(dict.fromkeys(PRECISIONS), precision, "precision", "--precision")
    own = precision_of(name)
    if precision == own:
        return name
    base = name.removesuffix(f"_{own}")
    found = base if precision == "float32" else f"{base}_{precision}"
    if found not in RUNTIMES:
        able = [each for each in RUNTIMES if each.endswith(f"_{precision}")]
        others = ", ".join(each.removesuffix(f"_{precision}") for each in able if not each.startswith("null"))
        raise UsageError(f"runtime '{base}' has none, {others} have", key="precision", value=precision)
    return found


def is_exact(name: str) -> bool:
    """Return whether a runtime computes in float32, so that an exported network gives what the network gives."""
    return precision_of(name) == "float32"


def computes(name: str) -> bool:
    """Return whether a runtime computes outputs. The null runtime only simulates their time."""
    return not isinstance(find_runtime(name), NullRuntime)


def export_inputs(runtime: Runtime, shape: Sequence[int], images: Tensor | None) -> list[Tensor]:
    """Return what `Runtime.export` takes for a network of images: for int8 the images, otherwise only their shape.

    Args:
        runtime: The runtime.
        shape: The shape (C, H, W) of an image.
        images: Normalized images (N, C, H, W), or None.

    Raises:
        ExportError: A runtime in int8 has no images.
    """
    import torch

    if getattr(runtime, "precision", "float32") != "int8":
        return [torch.zeros(1, *shape)]
    if images is None:
        advice = "`nas export SOURCE --precision int8 --data DIR` takes them from DIR"
        raise ExportError(f"int8 needs images, which decide the ranges of activations: {advice}")
    return [images]


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


def not_run(name: str) -> str:
    """Return why files of a runtime cannot be run on this machine; "" if they can."""
    if not computes(name):
        return "the null runtime computes no outputs"
    try:
        make_runtime(name)
    except DeviceError as error:
        return str(error)
    return ""


def make_runtime(name: str) -> Runtime:
    """Return the runtime called `name`. Raises UsageError for an unknown name, DeviceError if it is not installed."""
    runtime = find_runtime(name)
    runtime.version()
    return runtime
