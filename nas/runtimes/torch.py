"""PyTorch eager on the CPU, channels-last, from a torch.export program: no source is needed on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchRuntime:
    """Exports a .pt2 program; runs its operators one by one with `threads` intra-op threads."""

    suffix = ".pt2"

    def version(self) -> str:
        """Return torch's version."""
        try:
            import torch
        except ImportError as error:
            raise DeviceError(f"runtime 'torch' is not installed: pip install torch ({error})") from error
        return str(torch.__version__)

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a torch.export program with channels-last weights."""
        import torch

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(model, tuple(inputs), strict=False), str(path))

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return one inference on `inputs`."""
        import torch

        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.export.load(path).module()
        model = model.to(memory_format=torch.channels_last)
        tensors = [torch.from_numpy(array).contiguous(memory_format=torch.channels_last) for array in inputs]

        def run() -> Sequence[Any]:
            with torch.inference_mode():
                return [model(*tensors).numpy()]

        return run
