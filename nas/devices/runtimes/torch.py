"""PyTorch eager, channels-last, from a torch.export program. The device needs no model source."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import DeviceArray, converting, exported_program, tensors_of
from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchRuntime:
    """Exports a .pt2 program and runs its operators one by one with `threads` intra-op threads.

    On "cuda", the model and its inputs are on the current GPU, each run ends with a synchronization, so that the clock
    measures all of it, and float32 stays float32 (no TF32).
    """

    suffix = ".pt2"
    selects_boxes = True

    def __init__(self, device: str = "cpu"):
        self.device = device

    def version(self) -> str:
        """Return torch's version, and the GPU's name. Raises DeviceError if one of them is missing."""
        name = "torch" if self.device == "cpu" else f"torch_{self.device}"
        try:
            import torch
        except ImportError as error:
            raise DeviceError(f"runtime '{name}' is not installed: pip install torch ({error})") from error
        if self.device == "cpu":
            return str(torch.__version__)
        if not torch.cuda.is_available():
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            raise DeviceError(f"runtime '{name}': no CUDA device (torch {torch.__version__}, {built})")
        return f"{torch.__version__}-{re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name().lower())}"

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a torch.export program. Raises ExportError."""
        import torch

        with converting("torch"):
            torch.export.save(exported_program(model, inputs), str(path))

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
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
        tensors = [torch.from_numpy(array).to(self.device) for array in inputs]
        tensors = [each.to(memory_format=torch.channels_last) if each.ndim == 4 else each for each in tensors]
        synchronize: Callable[[], object] = torch.cuda.synchronize if self.device == "cuda" else lambda: None

        def run() -> Sequence[Any]:
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
