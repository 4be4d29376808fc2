"""ONNX Runtime with all graph optimizations and without spinning between operators."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import DeviceArray, Inference, converting, output_count
from nas.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
OPSETS = range(13, 21)
"""The versions of ONNX's operators that torch's tracing exporter writes and our blocks need."""
PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}


@dataclass(frozen=True)
class OnnxForm:
    """How an ONNX file is written.

    Attributes:
        batch: The number of images that the file takes at once; None: any number.
        opset: The version of ONNX's operators, one of `OPSETS`.
    """

    batch: int | None = 1
    opset: int = OPSET


class OnnxRuntime:
    """Exports ONNX at a fixed batch size and runs it with `threads` intra-op threads.

    Inputs and outputs stay in the memory of `device`, "cpu" or "cuda", while the clock runs.
    """

    suffix = ".onnx"
    precision = "float32"
    selects_boxes = True

    def __init__(self, device: str = "cpu", form: OnnxForm | None = None):
        self.device, self._form = device, form or OnnxForm()

    def version(self) -> str:
        """Return onnxruntime's version, and the GPU's name. Raises DeviceError if one of them is missing."""
        is_cpu = self.device == "cpu"
        name, package = ("onnxruntime",) * 2 if is_cpu else (f"onnxruntime_{self.device}", "onnxruntime-gpu")
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceError(f"runtime '{name}' is not installed: pip install {package} ({error})") from error
        if is_cpu:
            return str(onnxruntime.__version__)
        known = onnxruntime.get_available_providers()
        if PROVIDERS[self.device][0] not in known:
            raise DeviceError(f"runtime '{name}': onnxruntime has only {', '.join(known)}: pip install {package}")
        return f"{onnxruntime.__version__}-{_gpu_name(name)}"

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write an ONNX file with the input "images" and the output "logits"; see `names_of`. Raises ExportError."""
        import torch

        form, names, outputs = self._form, names_of("images", len(inputs)), names_of("logits", output_count(model))
        dynamic = {name: {0: "batch"} for name in (*names, *outputs)} if form.batch is None else None
        with converting("onnxruntime"), torch.no_grad():
            # The tracing exporter writes the same graph as the one by torch.export, 50 times faster.
            torch.onnx.export(
                model,
                tuple(each.expand(form.batch or 2, *each.shape[1:]) for each in inputs),
                str(path),
                input_names=names,
                output_names=outputs,
                dynamic_axes=dynamic,
                opset_version=form.opset,
                dynamo=False,
            )

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return one inference on `inputs`. Raises DeviceError where the device refuses."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # 200 sessions have many threads
        provider = PROVIDERS[self.device]
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
        if session.get_providers()[0] != provider[0]:
            raise DeviceError(f"onnxruntime cannot use {provider[0]}: the libraries of CUDA or cuDNN are missing")
        binding = session.io_binding()
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), self.device, 0) for array in inputs]
        for index, node in enumerate(session.get_inputs()):
            binding.bind_ortvalue_input(node.name, values[index])
        for node in session.get_outputs():
            binding.bind_output(node.name, self.device)

        def fetch(index: int) -> Any:
            return binding.get_outputs()[index].numpy()

        # The binding does not keep the inputs alive, the arrays do.
        outputs = [DeviceArray(partial(fetch, index), owner=values) for index in range(len(session.get_outputs()))]

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            for value, array in zip(values, others):
                value.update_inplace(array)
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return outputs

        return run

    def node_times(self, path: str, inputs: Sequence[Any], threads: int, runs: int) -> list[dict[str, Any]]:
        """Return the time of each node, see `node_times`."""
        return node_times(path, inputs, threads, runs)


def names_of(name: str, count: int) -> list[str]:
    """Return the names of the inputs or outputs of a graph: "images"; if it has several, "images0", "images1", ..."""
    return [name] if count == 1 else [f"{name}{index}" for index in range(count)]


def node_times(path: str, inputs: Sequence[Any], threads: int, runs: int) -> list[dict[str, Any]]:
    """Return the median time in ms of each node, in the order of execution, as ONNX Runtime's profiler reports it.

    The nodes are those after the graph's optimization, for example with activations fused. Uses the processor.

    Args:
        path: The ONNX file.
        inputs: The numpy array of each input.
        threads: Number of threads.
        runs: Number of timed inferences, after two untimed ones.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="nas-nodes-") as folder:
        options.profile_file_prefix = str(Path(folder) / "nodes")
        session = onnxruntime.InferenceSession(path, options, providers=[PROVIDERS["cpu"][0]])
        feeds = {node.name: array for node, array in zip(session.get_inputs(), inputs)}
        for _ in range(runs + 2):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times.setdefault(name[: -len("_kernel_time")], []).append(event["dur"] / 1000)
            ops[name[: -len("_kernel_time")]] = event["args"]["op_name"]
    return [{"name": name, "op": ops[name], "ms": median(values[2:] or values)} for name, values in times.items()]


def _gpu_name(runtime: str) -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"runtime '{runtime}': no CUDA device ({error})") from error
    return re.sub(r"[^a-z0-9]+", "-", done.stdout.strip().lower())
