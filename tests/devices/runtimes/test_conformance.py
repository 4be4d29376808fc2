"""The conformance suite of runtimes; one whose library is not installed is skipped with that reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices.client import local_worker
from nas.devices.processor import describe_processor, processor_slug
from nas.devices.runtimes import PRECISIONS, RUNTIMES, Runtime, find_runtime, make_runtime, with_precision
from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.runtimes.torch import TorchRuntime
from nas.devices.timing import Protocol
from nas.errors import DeviceError, ExportError, UsageError
from nas.latency.profiler import measure_networks
from nas.networks.deployment import deploy
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture, parse_space
from nas.utils.reporting import Reporter

SMALL = """
resolution: 64
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 16, stride: 2, expand_ratio: 3, se_ratio: 0.25, activation: hard_swish}
head: {block: classifier, hidden_channels: 16, num_classes: 10}
"""
TINY = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
head: {block: classifier, num_classes: 10}
"""
FAMILIES = """
resolution: 64
stages:
  - {block: conv, out_channels: 16, stride: 2}
  - {block: separable, out_channels: 24, stride: 2, skip: pool, se_ratio: 0.25}
  - {block: fused_mbconv, out_channels: 24, expand_ratio: 2}
  - {block: shufflenet_v1, out_channels: 48, stride: 2, groups: 4}
  - {block: shufflenet_v2, depth: 2, out_channels: 64, stride: 2}
  - {block: osa, out_channels: 48, mid_channels: 16, num_layers: 3, ese: true}
  - {block: fire, out_channels: 48, squeeze_ratio: 0.25, bypass: conv}
  - {block: squeezenext, out_channels: 48, groups: 2}
  - {block: dense, growth_rate: 16}
  - {block: two_way_dense, growth_rate: 16, bottleneck_width: 2}
  - {block: mbconv, out_channels: 80, expand_ratio: 2, kernel_size: 5, activation: hard_swish}
head: {block: classifier, hidden_channels: 32, num_classes: 10}
"""
LIGHT_ON_THE_DEVICE = ("onnxruntime", "openvino", "litert", "ncnn")
SLOW_TO_COMPILE = pytest.param("torch_compile", marks=pytest.mark.slow)


def runtime_or_skip(name: str) -> Runtime:
    try:
        return make_runtime(name)
    except DeviceError as error:
        pytest.skip(str(error))


def architecture(text: str) -> Architecture:
    return parse_space("runtimes", yaml.safe_load(text), "test_runtimes.py").decode({})


def trained_a_little(arch: Architecture) -> nn.Module:
    """Return the deployed network with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    model: nn.Module = build(arch)
    model.train()(torch.randn(8, 3, arch.resolution, arch.resolution))
    return deploy(model)


def assert_same(output: object, expected: Tensor, precision: str = "float32") -> None:
    values, found = expected.numpy(), np.asarray(output)
    assert found.dtype == np.float32
    largest = float(np.abs(values).max())
    if precision == "float32":
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5 * largest)
    else:
        share = {"float16": 0.01, "bfloat16": 0.05, "int8": 0.25}[precision]
        assert 0 < np.abs(found - values).max() <= share * largest, "near, and not computed in float32"


def examples(name: str, x: Tensor) -> Tensor:
    """Return what an export gets: images for a runtime that takes its ranges from them, otherwise only the shape."""
    return torch.cat([x, -x, torch.randn(6, *x.shape[1:])]) if name.endswith("_int8") else torch.zeros_like(x)


def check_round_trip(name: str, arch: Architecture, folder: Path) -> None:
    runtime = runtime_or_skip(name)
    model, x = trained_a_little(arch), torch.randn(1, 3, arch.resolution, arch.resolution)
    path = folder / f"model{runtime.suffix}"
    runtime.export(model, [examples(name, x)], path)
    assert {file.stem for file in folder.iterdir()} == {path.stem}
    assert path.stat().st_size > 0
    run = runtime.load(str(path), [x.numpy()], 1)
    outputs = run()
    if name.startswith("null"):
        assert outputs == []
        return
    first = np.array(outputs[0])
    with torch.no_grad():
        assert_same(first, model(x), runtime.precision)
        assert_same(run([-x.numpy()])[0], model(-x), runtime.precision)
        assert_same(run([x.numpy()])[0], model(x), runtime.precision)
    np.testing.assert_array_equal(first, np.asarray(run()[0]))


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_exported_network_computes_what_eager_computes(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_round_trip(name, architecture(TINY if name == "torch_compile" else SMALL), tmp_path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", [*(name for name in RUNTIMES if name != "torch_compile"), SLOW_TO_COMPILE])
def test_every_family_of_blocks_computes_what_eager_computes(name: str, tmp_path: Path) -> None:
    check_round_trip(name, architecture(FAMILIES), tmp_path)


class ThreeMaps(nn.Module):
    """Reads its inputs in another order than that of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(channels, 8, 3, padding=1) for channels in (4, 6, 2)])

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat([self.layers[index](maps[index]) for index in (2, 0, 1)], 1)


@pytest.mark.parametrize("name", [name for name in RUNTIMES if not name.startswith("null")])
def test_several_inputs_keep_their_order(name: str, tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    torch.manual_seed(0)
    model, maps = ThreeMaps().eval(), [torch.randn(1, channels, 8, 8) for channels in (4, 6, 2)]
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(model, [examples(name, x) for x in maps], path)
    with torch.no_grad():
        expected = model(*maps)
    assert_same(runtime.load(str(path), [x.numpy() for x in maps], 1)()[0], expected, runtime.precision)


@pytest.mark.parametrize("name", [name for name in RUNTIMES if not name.startswith("null")])
def test_the_inputs_need_not_be_kept(name: str, tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), torch.randn(1, 3, 256, 256)
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(model, [examples(name, x)], path)
    run = runtime.load(str(path), [x.numpy().copy()], 1)
    assert np.zeros((8, 3, 256, 256)).sum() == 0  # takes the memory of what is not kept
    with torch.no_grad():
        assert_same(run()[0], model(x), runtime.precision)


class Impossible(nn.Module):
    """Cannot even run."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such thing\n  more of it")


@pytest.mark.parametrize("name", [name for name in RUNTIMES if not name.startswith("null")])
def test_what_cannot_be_converted_is_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = runtime_or_skip(name)
    with pytest.raises(ExportError, match="cannot convert this network: ") as caught:
        runtime.export(Impossible().eval(), [torch.zeros(1, 3, 8, 8)], tmp_path / f"model{runtime.suffix}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_ncnn_has_no_selection_of_channels(tmp_path: Path) -> None:
    class Selects(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.index_select(1, torch.tensor([2, 0]))

    runtime = runtime_or_skip("ncnn")
    with pytest.raises(ExportError, match=r"ncnn has no operator .*index_select"):
        runtime.export(Selects().eval(), [torch.zeros(1, 3, 8, 8)], tmp_path / "model.ncnn.zip")


LOAD = """
import os, sys
if {no_torch}: sys.modules["torch"] = None
import numpy as np
from nas.devices.runtimes import RUNTIMES
inputs = [np.ones((1, 3, 64, 64), np.float32)]
run = RUNTIMES[{name!r}]().load({path!r}, inputs, {threads})
for _ in range(3): assert np.isfinite(np.asarray(run()[0])).all()
print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0)
"""


def threads_of(name: str, path: Path, threads: int, no_torch: bool = False) -> int:
    """Load and run the model in a process of its own and return how many threads that has."""
    code = LOAD.format(name=name, path=str(path), threads=threads, no_torch=no_torch)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("name", LIGHT_ON_THE_DEVICE)
def test_the_device_needs_no_torch(name: str, tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(trained_a_little(architecture(SMALL)), [torch.zeros(1, 3, 64, 64)], path)
    threads_of(name, path, 1, no_torch=True)


@pytest.mark.parametrize("name", [*LIGHT_ON_THE_DEVICE, "executorch"])
def test_threads_are_obeyed(name: str, tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    if not Path("/proc/self/task").is_dir() or describe_processor()["cores"] < 2:
        pytest.skip("counts the threads of Linux on two cores or more")
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(trained_a_little(architecture(SMALL)), [torch.zeros(1, 3, 64, 64)], path)
    assert threads_of(name, path, 2) - threads_of(name, path, 1) == 1


def test_a_missing_compiler_is_a_device_error(tmp_path: Path) -> None:
    from torch._inductor import config

    runtime = make_runtime("torch_compile")
    with config.patch({"cpp.cxx": ("/no/such/compiler",)}), pytest.raises(DeviceError, match=r"needs a C\+\+ compiler"):
        runtime.load(str(tmp_path / "model.pt2"), [], 1)


@pytest.mark.parametrize("name", ["torch_cuda", "onnxruntime_cuda"])
def test_without_a_gpu_its_runtimes_refuse_early(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: the suite above runs on it")
    with pytest.raises(DeviceError, match=name):
        make_runtime(name)


@pytest.mark.parametrize("kind", [TorchRuntime, OnnxRuntime])
def test_a_runtime_on_the_processor_leaves_the_cache_to_the_default(kind: type) -> None:
    runtime = kind(device="cpu")
    assert runtime.version()
    assert getattr(runtime, "flusher", lambda size: None)(1024) is None


@pytest.mark.parametrize("name", [*(name for name in RUNTIMES if name != "torch_compile"), SLOW_TO_COMPILE])
def test_the_worker_measures_networks(name: str) -> None:
    runtime_or_skip(name)
    small, large = (architecture(TINY).at(size) for size in (32, 256))
    is_slow = name.startswith("torch")  # one that imports torch again for the memory of each network
    first, second = measure_networks([small, large], name, 1, Reporter(quiet=True), memory=not is_slow)
    assert not (is_slow and first.memory_bytes)
    assert 0 < first.p10 <= first.median <= first.p90
    assert first.median < second.median
    assert first.samples == second.samples >= 100


def test_null_times_are_counted_and_repeat_exactly() -> None:
    arch = load_architecture("mnasnet_a1_1.0").at(64)
    one, other = (measure_networks([arch], "null", 1, Reporter(quiet=True))[0] for _ in range(2))
    assert one == other
    assert one.p10 == one.p90
    assert one.memory_bytes is not None
    assert one.memory_bytes > 1 << 20


def test_the_worker_says_what_it_got() -> None:
    with local_worker("null", 1) as worker:
        assert worker.settings["runtime_version"] == "1"
        assert {"pinned", "scheduler", "malloc"} <= set(worker.settings)


def test_a_worker_that_dies_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="worker"), local_worker("null", 1) as worker:
        os.kill(worker._pipe._process.pid, signal.SIGKILL)
        list(worker.measure([], Protocol(), 0))


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"):
        make_runtime("onnxruntme")


def test_a_processor_has_a_folder_name() -> None:
    assert processor_slug({"processor": "Intel(R) Xeon(R) CPU @ 2.20GHz", "model": "6/79/0"}) == "intel-xeon-6-79-0"
    assert describe_processor()["cores"] >= 1
    assert processor_slug(describe_processor())


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_name_of_a_runtime_ends_with_its_precision(name: str) -> None:
    precision = find_runtime(name).precision
    assert precision in PRECISIONS
    assert name.endswith(f"_{precision}") == (precision != "float32")
    assert with_precision(name, precision) == name
    assert with_precision(with_precision(name, "float32"), precision) == name


def test_a_runtime_without_a_precision_names_those_that_have_it() -> None:
    assert with_precision("onnxruntime", "int8") == with_precision("onnxruntime_int8", "int8") == "onnxruntime_int8"
    assert with_precision("openvino_int8", "bfloat16") == "openvino_bfloat16"
    with pytest.raises(UsageError) as caught:
        with_precision("ncnn", "int8")
    assert (
        str(caught.value)
        == "--precision: runtime 'ncnn' has none, onnxruntime, openvino, executorch, litert have: 'int8'"
    )
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        with_precision("onnxruntime", "int4")


def test_torch_refuses_a_precision_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(DeviceError, match="runtime 'torch_bfloat16': this processor has no bfloat16 arithmetic"):
        make_runtime("torch_bfloat16")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_torch_computes_in_half_precision(precision: str, tmp_path: Path) -> None:
    runtime = TorchRuntime(precision=precision)  # also where the processor only emulates it
    model, x = trained_a_little(architecture(SMALL)), torch.randn(1, 3, 64, 64)
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(model, [torch.zeros_like(x)], path)
    with torch.no_grad():
        assert_same(runtime.load(str(path), [x.numpy()], 1)()[0], model(x), precision)
