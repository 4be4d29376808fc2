"""The conformance suite of runtimes; one whose library is not installed is skipped with that reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.device import local_worker, make_runtime
from nas.errors import DeviceError, UsageError
from nas.network import build, deploy
from nas.processor import describe_processor, processor_slug
from nas.profiler import measure_networks
from nas.profiling import Protocol
from nas.progress import Reporter
from nas.runtimes import RUNTIMES, Runtime
from nas.space_file import load_architecture

ARCH = load_architecture("mnasnet_a1_1.0").at(64)


def runtime_or_skip(name: str) -> Runtime:
    try:
        return make_runtime(name)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_exported_network_computes_what_eager_computes(name: str, tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    torch.manual_seed(0)
    model: torch.nn.Module = build(ARCH)
    x = torch.randn(1, 3, 64, 64)
    model.train()(torch.randn(8, 3, 64, 64))
    model = deploy(model)
    path = tmp_path / f"model{runtime.suffix}"
    runtime.export(model, [torch.zeros_like(x)], path)
    assert path.stat().st_size > 0
    run = runtime.load(str(path), [x.numpy()], 1)
    outputs = run()
    if name == "null":
        assert outputs == []
        return
    np.testing.assert_allclose(outputs[0], model(x).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run()[0], run()[0])


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_worker_measures_networks(name: str) -> None:
    runtime_or_skip(name)
    small, large = ARCH.at(32), ARCH.at(96)
    first, second = measure_networks([small, large], name, 1, Reporter(quiet=True))
    assert 0 < first.p10 <= first.median <= first.p90
    assert first.median < second.median
    assert first.samples == second.samples >= 100


def test_null_times_are_counted_and_repeat_exactly() -> None:
    one, other = (measure_networks([ARCH], "null", 1, Reporter(quiet=True))[0] for _ in range(2))
    assert one == other
    assert one.p10 == one.p90


def test_the_worker_says_what_it_got() -> None:
    with local_worker("null", 1) as worker:
        assert worker.settings["runtime_version"] == "1"
        assert {"pinned", "scheduler", "malloc"} <= set(worker.settings)


def test_a_worker_that_dies_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="worker"), local_worker("null", 1) as worker:
        os.kill(worker._link.pid, signal.SIGKILL)
        list(worker.measure([], Protocol(), 0))


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"):
        make_runtime("onnxruntme")


def test_a_processor_has_a_folder_name() -> None:
    assert processor_slug({"processor": "Intel(R) Xeon(R) CPU @ 2.20GHz", "model": "6/79/0"}) == "intel-xeon-6-79-0"
    assert describe_processor()["cores"] >= 1
    assert processor_slug(describe_processor())
