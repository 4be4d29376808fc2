"""Energy from a simulated powercap tree; memory of a real process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nas.devices.client import Graph, local_worker
from nas.devices.energy_and_memory import energy_meter, peak_memory
from nas.devices.runtimes import RUNTIMES
from nas.devices.timing import Protocol, Sample, measure_energy
from nas.networks.deployment import deploy
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages at 100 J and 7 J, and a core that is counted within a package."""
    for zone, name, joules in (("rapl:0", "package-0", 100), ("rapl:1", "package-1", 7), ("rapl:0:0", "core", 50)):
        folder = tmp_path / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{joules * 10**6}\n")
        (folder / "max_energy_range_uj").write_text(f"{200 * 10**6}\n")
    return tmp_path


def test_packages_are_summed_from_when_the_meter_was_opened(powercap: Path) -> None:
    meter = energy_meter(powercap=powercap)
    assert meter is not None
    assert meter() == 0.0
    (powercap / "rapl:0" / "energy_uj").write_text("101500000")
    (powercap / "rapl:1" / "energy_uj").write_text("7250000")
    (powercap / "rapl:0:0" / "energy_uj").write_text("99000000")
    assert meter() == pytest.approx(1.75)


def test_a_counter_that_began_again_goes_on(powercap: Path) -> None:
    meter = energy_meter(powercap=powercap)
    assert meter is not None
    (powercap / "rapl:0" / "energy_uj").write_text("3000000")
    assert meter() == pytest.approx(103.0)
    (powercap / "rapl:0" / "energy_uj").write_text("4000000")
    assert meter() == pytest.approx(104.0)


def test_a_device_without_a_meter_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert energy_meter(powercap=tmp_path) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_meter(cuda=True) is None


def test_the_energy_of_a_call_is_that_of_many() -> None:
    joules, calls = 10.0, 0

    def run() -> None:
        nonlocal joules, calls
        joules, calls = joules + 0.004, calls + 1

    assert measure_energy(run, [2.0, 1.0, 3.0], 20.0, lambda: joules) == {"energy_mj": pytest.approx(4.0)}
    assert calls == 20
    assert measure_energy(run, [2.0], 0.0, lambda: joules) == {}
    assert measure_energy(run, [100.0], 20.0, lambda: joules) == {"energy_mj": pytest.approx(4.0)}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Graph]:
    """A network whose weights are small, and one whose weights are 77 MB, for ONNX Runtime."""
    found = []
    for name in ("mobilenet_v2_0.35", "efficientnet_b4"):
        path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
        model = deploy(build(load_architecture(name)))
        RUNTIMES["onnxruntime"]().export(model, [torch.zeros(1, 3, 64, 64)], path)
        found.append(Graph(name, str(path), ((1, 3, 64, 64),), memory=True))
    return found


@linux
def test_a_large_model_takes_more_memory_and_at_least_its_weights(graphs: list[Graph]) -> None:
    small, large = (peak_memory("onnxruntime", graph.path, graph.shapes, 1) for graph in graphs)
    assert small is not None
    assert large is not None
    assert 2e6 < small < 60e6
    assert large > Path(graphs[1].path).stat().st_size > 70e6


@linux
def test_a_worker_tells_the_memory_with_the_first_visit(graphs: list[Graph]) -> None:
    with local_worker("onnxruntime", 1) as worker:
        samples: list[Sample] = list(worker.measure(graphs[:1], Protocol(visits=2), 0))
    assert [set(sample.costs) for sample in samples] == [{"memory_bytes"}, set()]
    assert samples[0].costs["memory_bytes"] > 2e6


@linux
def test_a_model_that_cannot_be_loaded_has_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("no model")
    assert peak_memory("onnxruntime", str(tmp_path / "a.onnx"), [[1]], 1) is None
