"""The runtimes that networks are deployed to and measured in. One file each, its library imported inside.

A runtime exports a module on the host and loads the file on the device. To add one: write a file, add a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nas.runtimes.null import NullRuntime
from nas.runtimes.onnxruntime import OnnxRuntime
from nas.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runtime(Protocol):
    """What a runtime file provides. Optional: `clock() -> ns`, where time is not the machine's."""

    suffix: str

    def version(self) -> str:
        """Return the library's version. Raises DeviceError where it is not installed."""

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write `model`, in eval mode and deployed, for inputs of these shapes. Host side, may use torch."""

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return one inference on numpy `inputs` as a call that gives numpy outputs. Device side."""


RUNTIMES: dict[str, type[Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "torch": TorchRuntime,
    "null": NullRuntime,
}
