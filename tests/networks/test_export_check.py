"""The check of an export finds a wrong layer, however small or constant the outputs of the network are."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nas.architecture import Architecture
from nas.errors import ExportError
from nas.networks import export
from nas.networks.deployment import deploy
from nas.networks.export import calibrate, export_folder
from nas.networks.exported_folder import check_input, load_exported
from nas.networks.network import Network, build
from nas.networks.standalone.source import standalone_source
from nas.spaces.yaml_format import load_architecture, parse_space


@pytest.fixture(scope="module")
def deep() -> Architecture:
    return load_architecture("mobilenet_v3_small_1.0").for_classes(10).at(32)


@pytest.fixture
def shallow() -> Architecture:
    stages = [{"block": "conv", "out_channels": 4, "stride": 2}, {"block": "mbconv", "out_channels": 4}]
    data = {"resolution": 8, "stages": stages, "head": {"block": "classifier", "num_classes": 4}}
    return parse_space("shallow", data, "shallow").decode({})


@torch.no_grad()
def largest(model: nn.Module, arch: Architecture) -> float:
    return float(model.eval()(check_input(arch.input_shape)).abs().max())


def test_a_calibrated_copy_has_outputs_of_order_one(deep: Architecture) -> None:
    fresh = build(deep)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    assert largest(fresh, deep) < 1e-6
    assert 1e-3 < largest(calibrate(fresh, deep.input_shape), deep) < 100
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


def wrong_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exported files leave out every activation of this kind."""
    monkeypatch.setattr(
        export, "standalone_source",
        lambda *given: standalone_source(*given).replace("nn.Hardswish(inplace=True)", "nn.SiLU()"),
    )  # fmt: skip


def wrong_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runtimes receive a network with another layer."""

    def changed(model: nn.Module) -> nn.Module:
        model = deploy(model)
        last = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (5, 5)]
        last[-1].weight.data.mul_(0.9)
        return model

    monkeypatch.setattr(export, "deploy", changed)


@pytest.mark.parametrize("mistake", [wrong_source, wrong_graph])
def test_a_wrong_layer_of_a_fresh_deep_network_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], deep: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    with pytest.raises(ExportError, match=r"the output differs|its output differs"):
        export_folder(deep, build(deep), tmp_path / "model", "onnxruntime", {})
    assert not list(tmp_path.iterdir())


def scaled(network: Network, factor: float, bias: float = 0.0) -> Network:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(factor)
                module.bias.fill_(bias)
    return network


@pytest.mark.parametrize(
    ("factor", "bias"), [(1.0, 0.0), (1e-20, 0.0), (0.0, 0.0), (0.0, 3.0), (1e6, 0.0), (1e-9, 5.0)]
)
def test_networks_with_small_large_or_constant_outputs_are_exported(
    factor: float, bias: float, shallow: Architecture, tmp_path: Path
) -> None:
    model = scaled(build(shallow), factor, bias)
    export_folder(shallow, model, tmp_path / "model", "onnxruntime", {})
    assert torch.equal(
        load_exported(tmp_path / "model")[1](check_input((3, 8, 8))), model.eval()(check_input((3, 8, 8)))
    )
    assert not (tmp_path / "model" / "structure").exists()


def test_the_exported_file_finds_other_weights_although_the_outputs_are_small(
    shallow: Architecture, tmp_path: Path
) -> None:
    export_folder(shallow, scaled(build(shallow), 1e-8), tmp_path / "model", "onnxruntime", {})
    runpy.run_path(str(tmp_path / "model" / "model.py"), run_name="__main__")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({key: value * 1.01 for key, value in weights.items()}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(SystemExit, match="the output differs"):
        runpy.run_path(str(tmp_path / "model" / "model.py"), run_name="__main__")
