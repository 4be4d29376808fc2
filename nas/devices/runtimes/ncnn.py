"""ncnn on the CPU; models are converted by pnnx."""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import DeviceArray, Inference, converting, installed
from nas.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
UNWANTED = ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")


class NcnnRuntime:
    """Exports a zip of ncnn's two files and runs them with `threads` threads. The device needs ncnn and numpy.

    The options use_fp16_* are on for float16 only, and use_bf16_* never: by default, ncnn mixes them, and bfloat16 gave
    zeros (1.0.20261020, x86). Winograd and the packed layouts stay on. ncnn has no batch axis: its maps are (C, H, W),
    and the batch axis is added to the outputs.
    """

    selects_boxes = False

    def __init__(self, precision: str = "float32"):
        self.precision = precision
        self.suffix = ".ncnn.zip" if precision == "float32" else f".{precision}.ncnn.zip"

    def version(self) -> str:
        """Return ncnn's version."""
        return installed("ncnn", "ncnn", "ncnn")

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write the zip. Raises ExportError, DeviceError without pnnx."""
        with converting("ncnn"), tempfile.TemporaryDirectory(prefix="nas-pnnx-") as folder:
            installed("ncnn", "pnnx", "pnnx")
            import pnnx

            _trace(model, inputs, Path(folder) / "model.pt")
            shapes = ",".join(f"[{','.join(map(str, tensor.shape))}]f32" for tensor in inputs)
            # Not pnnx.export(): it also imports and runs the Python file that the program writes.
            unwanted = [f"{name}={os.devnull}" for name in UNWANTED]
            command = [
                pnnx.EXEC_PATH,
                "model.pt",
                f"inputshape={shapes}",
                f"fp16={int(self.precision == 'float16')}",
                *unwanted,
            ]
            command += [f"ncnnparam={PARAM}", f"ncnnbin={BIN}"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
            _check(Path(folder), done)
            with zipfile.ZipFile(path, "w") as archive:
                for name in (PARAM, BIN):
                    archive.write(Path(folder) / name, name)

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`."""
        import ncnn
        import numpy as np

        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for option in dir(net.opt):
            if option.startswith(("use_fp16", "use_bf16")):
                setattr(net.opt, option, self.precision == "float16" and option.startswith("use_fp16"))
        with tempfile.TemporaryDirectory(prefix="nas-ncnn-") as folder:
            with zipfile.ZipFile(path) as archive:
                for name in (PARAM, BIN):
                    archive.extract(name, folder)
            net.load_param(str(Path(folder) / PARAM))
            net.load_model(str(Path(folder) / BIN))

        def maps_of(arrays: Sequence[Any]) -> list[Any]:
            return [ncnn.Mat(np.ascontiguousarray(array[0])).clone() for array in arrays]

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            if others:
                maps[:] = maps_of(others)
            extractor = net.create_extractor()
            for index, values in enumerate(maps):
                extractor.input(f"in{index}", values)
            # ncnn computes only what is extracted.
            outputs = [extractor.extract(f"out{index}")[1] for index in range(count)]
            return [DeviceArray(partial(with_batch, output)) for output in outputs]

        def with_batch(output: Any) -> Any:
            return np.array(output)[np.newaxis]

        maps, count = maps_of(inputs), len(net.output_names())
        return run


def _trace(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    import torch

    jit: Any = torch.jit
    with torch.no_grad():
        jit.trace(model, tuple(inputs), check_trace=False).save(str(path))


def _check(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Raise ExportError unless pnnx wrote a graph that ncnn can run."""
    param = folder / PARAM
    lines = param.read_text(encoding="utf-8").splitlines()[2:] if param.is_file() else []
    foreign = sorted({line.split()[0] for line in lines if "." in line.split()[0] or "::" in line.split()[0]})
    if done.returncode or not lines or not (folder / BIN).is_file() or foreign:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        reason = f"ncnn has no operator {', '.join(foreign)}" if foreign else last
        raise ExportError(f"runtime 'ncnn' cannot convert this network: {reason}")
