"""torch.compile (inductor) on the CPU, channels-last; the device compiles the model when loading it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import Inference, tensors_of
from nas.devices.runtimes.torch import TorchRuntime, on_device
from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchCompileRuntime:
    """Exports a .pt2 program, as the runtime torch does; `load` compiles it in seconds, for `threads` threads.

    The device needs torch and a C++ compiler ($CXX, or g++ on the path).
    """

    suffix = ".pt2"
    precision = "float32"
    selects_boxes = True

    def version(self) -> str:
        """Return torch's version."""
        return TorchRuntime().version()

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a torch.export program."""
        TorchRuntime().export(model, inputs, path)

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one compiled inference on `inputs`. Raises DeviceError without a C++ compiler."""
        import torch
        from torch._inductor import config, cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler as error:
            raise DeviceError("runtime 'torch_compile' needs a C++ compiler on the device: install g++") from error
        torch.set_num_threads(threads)
        config.compile_threads = 1  # compiler processes would disturb the measurement
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.export.load(path).module()
        model = model.to(memory_format=torch.channels_last)
        compiled = torch.compile(model, dynamic=False)
        tensors = on_device(inputs, "cpu")

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            if others:
                tensors[:] = on_device(others, "cpu")
            with torch.inference_mode():
                return [each.numpy() for each in tensors_of(compiled(*tensors))]

        run()
        return run
