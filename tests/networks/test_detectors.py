"""Detectors beyond counting: runtimes, supernets, exports, tables and blocks of other packages, with all outputs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.architecture import Architecture
from nas.devices.runtimes import RUNTIMES, make_runtime
from nas.errors import DeviceError, ExportError
from nas.evaluators.supernet.shared_weights import Supernet
from nas.latency.profiler import profile, table_header
from nas.latency.table import LatencyTable
from nas.networks.block_check import check_blocks
from nas.networks.deployment import deploy
from nas.networks.export import export_folder
from nas.networks.exported_folder import load_exported
from nas.networks.network import build, trace
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import parse_space
from nas.utils.reporting import Reporter
from tests.helpers.small_detector import SMALL

ON_THE_HOST = ("onnxruntime", "openvino", "torch", "torch_compile", "executorch", "litert", "ncnn")
OWN = """
from __future__ import annotations
import torch
from torch import Tensor, nn


class Own(nn.Module):
    def __init__(self, in_channels: tuple[int, ...]):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(each, 8, 1) for each in in_channels)

    def forward(self, maps: list[Tensor]) -> RETURNED:
        found = [conv(x) for conv, x in zip(self.convs, maps)]
        return RESULT
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space("small", {**SMALL, "resolution": 64}, "small.yaml")


@pytest.fixture(scope="module")
def arch(space: Space) -> Architecture:
    return space.decode(space.sample(random.Random(1)))


def network(arch: Architecture) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build(arch)
    model.train()(torch.randn(4, 3, arch.resolution, arch.resolution))
    return model.eval()


@pytest.mark.parametrize("name", ON_THE_HOST)
def test_a_runtime_returns_all_outputs_in_order(name: str, arch: Architecture, tmp_path: Path) -> None:
    assert name in RUNTIMES
    try:
        runtime = make_runtime(name)
    except DeviceError as error:
        pytest.skip(str(error))
    model, x = deploy(network(arch)), torch.randn(1, 3, arch.resolution, arch.resolution)
    path = tmp_path / f"model{runtime.suffix}"
    try:
        runtime.export(model, [x], path)
    except ExportError as error:
        if name == "ncnn":
            pytest.skip(f"ncnn has no form of this network: {error}")
        raise
    outputs = [np.array(output) for output in runtime.load(str(path), [x.numpy()], 1)()]
    with torch.no_grad():
        expected = model(x)
    assert [output.shape for output in outputs] == [tuple(each.shape) for each in expected]
    for output, each in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), each, rtol=1e-3, atol=1e-3 * each.abs().max().item())


def test_a_child_of_a_supernet_computes_what_its_copy_computes(space: Space) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space)
    for seed in range(6):
        arch = space.decode(space.sample(random.Random(seed)))
        x = torch.randn(2, 3, arch.resolution, arch.resolution)
        child, copied = supernet.child(arch).eval(), supernet.extract(arch).eval()
        with torch.no_grad():
            for own, other in zip(child(x), copied(x), strict=True):
                torch.testing.assert_close(own, other)  # their weights differ in layout only


def test_an_export_has_both_outputs_and_loads_again(arch: Architecture, tmp_path: Path) -> None:
    model = network(arch)
    card = export_folder(arch, model, tmp_path / "model", "onnxruntime", {})
    assert card["blocks"]["taps"] == [1, 3]
    assert json.loads((tmp_path / "model" / "card.json").read_text())["check"] == card["check"]
    again, loaded, _ = load_exported(tmp_path / "model")
    assert again == arch
    x = torch.randn(1, 3, arch.resolution, arch.resolution)
    with torch.no_grad():
        assert all(torch.equal(own, other) for own, other in zip(loaded(x), model(x), strict=True))


def test_a_table_covers_necks_and_heads_and_predicts(space: Space, tmp_path: Path) -> None:
    table = LatencyTable.open(tmp_path / "table.jsonl", table_header("null", 1))
    assert profile(space, table, Reporter(quiet=True)) == len(set(table.measured_layers(reachable(space))))
    certificate = table.certificates[space.key]
    assert certificate.mean_error < 0.05
    arch = space.decode(space.sample(random.Random(2)))
    predictor = table.predictor(space.key)
    assert predictor.predict(arch) == pytest.approx(sum(map(predictor.layer_ms, trace(arch))))
    again = LatencyTable.open(table.path)
    assert again.predictor(space.key).predict(arch) == pytest.approx(predictor.predict(arch))


@pytest.mark.parametrize(
    ("returned", "result", "place"),
    [
        ("list[Tensor]", "found", "neck"),
        ("tuple[Tensor, Tensor]", "found[0].flatten(2), found[1].flatten(2)", "head"),
    ],
)
def test_necks_and_heads_of_other_packages_are_checked(
    returned: str, result: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{place}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("RETURNED", returned).replace("RESULT", result))
    monkeypatch.syspath_prepend(tmp_path)
    own: dict[str, Any] = {"block": f"{name}:Own"}
    data = {**SMALL, "resolution": 64, **({"neck": [own]} if place == "neck" else {"head": own})}
    space = parse_space("own", data, "own.yaml")
    layers = trace(space.decode(space.sample(random.Random(0))))
    assert any(layer.spec.op == own["block"] for layer in layers)
    check_blocks(layers)
