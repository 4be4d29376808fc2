"""PyTorch eager, channels-last, from a torch.export program. The device needs no model source."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import DeviceArray, Inference, converting, exported_program, output_count, tensors_of
from nas.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class TorchRuntime:
    """Exports a .pt2 program and runs its operators one by one with `threads` intra-op threads.

    On "cuda", the model and its inputs are on the current GPU, each run ends with a synchronization, so that the clock
    measures all of it, and float32 stays float32 (no TF32).
    """

    selects_boxes = True

    def __init__(self, device: str = "cpu", precision: str = "float32"):
        self.device, self.precision = device, precision
        self.suffix = ".pt2" if precision == "float32" else f".{precision}.pt2"

    def version(self) -> str:
        """Return torch's version, and the GPU's name. Raises DeviceError if one of them is missing."""
        name = "torch" if self.device == "cpu" else f"torch_{self.device}"
        try:
            import torch
        except ImportError as error:
            raise DeviceError(f"runtime '{name}' is not installed: pip install torch ({error})") from error
        if self.device == "cpu":
            self._check_processor()
            return str(torch.__version__)
        if not torch.cuda.is_available():
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            raise DeviceError(f"runtime '{name}': no CUDA device (torch {torch.__version__}, {built})")
        return f"{torch.__version__}-{re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name().lower())}"

    def _check_processor(self) -> None:
        """Raise DeviceError if the processor has no instructions for the precision: torch would emulate them slowly."""
        import torch

        operators: Any = torch.ops.mkldnn
        able = {"float16": operators._is_mkldnn_fp16_supported, "bfloat16": operators._is_mkldnn_bf16_supported}
        if self.precision in able and not able[self.precision]():
            raise DeviceError(f"runtime 'torch_{self.precision}': this processor has no {self.precision} arithmetic")

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a torch.export program. Raises ExportError."""
        import torch

        with converting("torch"):
            model = model if self.precision == "float32" else reduced(model, getattr(torch, self.precision))
            torch.export.save(exported_program(model, inputs), str(path))

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`."""
        import torch
        from torch.export import passes

        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = passes.move_to_device_pass(torch.export.load(path), self.device)
            model: Any = program.module()
        model = model.to(memory_format=torch.channels_last)
        tensors = on_device(inputs, self.device)
        synchronize: Callable[[], object] = torch.cuda.synchronize if self.device == "cuda" else lambda: None

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            if others:
                tensors[:] = on_device(others, self.device)
            with torch.inference_mode():
                output = model(*tensors)
            synchronize()
            return [DeviceArray(partial(each.numpy, force=True)) for each in tensors_of(output)]

        return run

    def flusher(self, size: int) -> Callable[[], None] | None:
        """Return a function that evicts the GPU's second-level cache; None on the CPU."""
        import torch

        if self.device == "cpu" or not size:
            return None
        whole = max(size, 2 * torch.cuda.get_device_properties().L2_cache_size)
        buffer = torch.empty(whole, dtype=torch.uint8, device=self.device)

        def flush() -> None:
            buffer.zero_()
            torch.cuda.synchronize()

        return flush


def on_device(arrays: Sequence[Any], device: str) -> list[Tensor]:
    """Return arrays as tensors on a device, images and feature maps channels-last."""
    import torch

    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    return [each.to(memory_format=torch.channels_last) if each.ndim == 4 else each for each in tensors]


def reduced(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model that computes in another floating-point type. Inputs and outputs stay float32."""
    from torch import nn

    class Reduced(nn.Module):
        """Converts the inputs and outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model).to(dtype)
            self.outputs = output_count(model)

        def forward(self, *inputs: Tensor) -> list[Tensor]:
            """Return the outputs as float32 tensors."""
            return [each.float() for each in tensors_of(self.model(*(each.to(dtype) for each in inputs)))]

    return Reduced().eval()
