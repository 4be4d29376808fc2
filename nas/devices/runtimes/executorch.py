"""ExecuTorch on the CPU with the XNNPACK backend: PyTorch's runtime for phones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import (
    DeviceArray,
    Inference,
    converting,
    exported_program,
    installed,
    quick_decompositions,
    silent,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class ExecuTorchRuntime:
    """Exports .pte. XNNPACK runs what it supports with `threads` threads, portable kernels run the rest.

    The device needs executorch and torch, whose tensors its Python bindings use.
    """

    suffix = ".pte"
    precision = "float32"
    selects_boxes = True

    def version(self) -> str:
        """Return executorch's version."""
        return installed("executorch", "executorch", "executorch")

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write a program with one method, "forward". Raises ExportError."""
        with converting("executorch"):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

            with quick_decompositions():
                edge = to_edge_transform_and_lower(
                    exported_program(model, inputs),
                    partitioner=[XnnpackPartitioner()],
                    compile_config=EdgeCompileConfig(_check_ir_validity=False),
                )
                path.write_bytes(edge.to_executorch().buffer)

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`. The number of threads applies to the whole process."""
        import torch

        with silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "This API is experimental"
            from executorch.extension.pybindings import portable_lib

            portable_lib._unsafe_reset_threadpool(threads)
            module = portable_lib._load_for_executorch(path)
        tensors = [torch.from_numpy(array) for array in inputs]

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            if others:
                tensors[:] = map(torch.from_numpy, others)
            outputs = module.run_method("forward", tuple(tensors), clone_outputs=False)
            return [DeviceArray(output.numpy, owner=module) for output in outputs]

        return run
