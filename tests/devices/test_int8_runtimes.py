"""LiteRT and ExecuTorch in int8: quantized files are small, and compute nearly what the network computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from nas.devices.runtimes import Runtime, make_runtime, precision_of, with_precision
from nas.errors import ExportError
from nas.networks.deployment import deploy
from nas.networks.export import calibrate
from nas.networks.network import build
from nas.spaces.yaml_format import parse_space

LIBRARIES = {
    "litert_int8": ("ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
    "executorch_int8": ("executorch", "torchao"),
}
NAMES = tuple(LIBRARIES)
IMAGES = 32
NETWORK = """
resolution: 32
stages:
  - {block: conv, out_channels: 16, stride: 2, activation: hard_swish}
  - {block: mbconv, depth: 2, out_channels: 64, stride: 2, expand_ratio: 4, se_ratio: 0.25}
head: {block: classifier, hidden_channels: 512, num_classes: 10}
"""


def runtime_or_skip(name: str) -> Runtime:
    for library in LIBRARIES[name]:
        pytest.importorskip(library, reason=f"runtime '{name}' needs {library}")
    return make_runtime(name)


@dataclass
class Files:
    runtime: Runtime
    network: nn.Module
    images: Tensor
    whole: Path
    quantized: Path


@pytest.fixture(scope="module", params=NAMES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return a network's file in float32 and in int8."""
    runtime, exact = runtime_or_skip(request.param), make_runtime(with_precision(request.param, "float32"))
    arch = parse_space("small", yaml.safe_load(NETWORK), "small").decode({})
    torch.manual_seed(0)
    network, images = deploy(calibrate(build(arch), arch.input_shape)), torch.randn(IMAGES, *arch.input_shape)
    folder = tmp_path_factory.mktemp(request.param)
    whole, quantized = folder / f"model{exact.suffix}", folder / f"model{runtime.suffix}"
    exact.export(network, [images[:1]], whole)
    runtime.export(network, [images], quantized)
    return Files(runtime, network, images, whole, quantized)


def outputs_of(runtime: Runtime, path: Path, images: Tensor) -> Any:
    """Return the outputs for images one by one as an array."""
    rows = [image.numpy() for image in torch.split(images, 1)]
    run = runtime.load(str(path), [rows[0]], 1)
    return np.concatenate([np.array(run([row])[0]) for row in rows])


def exported_output(runtime: Runtime, model: nn.Module, images: Tensor, folder: Path) -> Any:
    """Export a model and return the file's output for the first image."""
    path = folder / f"model{runtime.suffix}"
    runtime.export(model, [images], path)
    return outputs_of(runtime, path, images[:1])


def test_the_quantized_file_is_less_than_half_as_large(files: Files) -> None:
    assert files.quantized.stat().st_size < 0.5 * files.whole.stat().st_size


def test_its_logits_are_near_those_of_the_network_and_float32(files: Files) -> None:
    images = torch.randn(IMAGES, *files.images.shape[1:])
    with torch.no_grad():
        expected = files.network(images).numpy()
    found = outputs_of(files.runtime, files.quantized, images)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    assert np.abs(found - expected).max() > 1e-4 * np.abs(expected).max(), "not computed in float32"


def test_litert_computes_in_int8_between_float32_inputs_and_outputs(files: Files) -> None:
    if files.runtime.suffix != ".int8.tflite":
        pytest.skip("reads the tensors of LiteRT's file")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(files.quantized))
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert {end["dtype"] for end in ends} == {np.float32}
    tensors = interpreter.get_tensor_details()
    assert any(len(each["quantization_parameters"]["scales"]) > 1 for each in tensors), "weights: one for each channel"
    kinds = [each["dtype"] for each in tensors]
    assert kinds.count(np.int8) > 10 * kinds.count(np.float32), "only the ends are float32"


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.conv(x).mean((2, 3)))
        return y


class OneImage(Layer):
    """Takes a batch of one image only."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.conv(x).mean((2, 3)).reshape(1, 8))
        return y


class PoolsAndDivides(Layer):
    """Pads with -inf, and divides by what int8 rounds to zero."""

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.max_pool2d(self.conv(x), 3, 2, 1)
        y: Tensor = self.linear((maps / (maps.relu().sum(1, keepdim=True) + 1e-5)).mean((2, 3)))
        return y


@pytest.mark.parametrize("kind", [OneImage, PoolsAndDivides])
@pytest.mark.parametrize("name", NAMES)
def test_models_that_are_hard_to_quantize(name: str, kind: type[Layer], tmp_path: Path) -> None:
    runtime = runtime_or_skip(name)
    torch.manual_seed(0)
    model, images = kind().eval(), torch.randn(17, 3, 16, 16)  # 17: the last batch has one image
    with torch.no_grad():
        expected = model(images[:1]).numpy()
    found = exported_output(runtime, model, images, tmp_path)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_order_of_the_images_does_not_change_litert_ranges(tmp_path: Path) -> None:
    runtime = runtime_or_skip("litert_int8")
    torch.manual_seed(0)
    model, images = Layer().eval(), torch.randn(16, 3, 16, 16) * torch.linspace(0.1, 2, 16).reshape(-1, 1, 1, 1)
    some = images[8:9]
    first, second = tmp_path / "first.int8.tflite", tmp_path / "second.int8.tflite"
    runtime.export(model, [images], first)
    runtime.export(model, [images.flip(0)], second)
    np.testing.assert_array_equal(outputs_of(runtime, first, some), outputs_of(runtime, second, some))


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_one_line(name: str, tmp_path: Path) -> None:
    class Impossible(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such thing\n  more of it")

    runtime = runtime_or_skip(name)
    with pytest.raises(ExportError, match="cannot convert this network: no such thing") as caught:
        runtime.export(Impossible().eval(), [torch.zeros(4, 3, 8, 8)], tmp_path / f"model{runtime.suffix}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_precision_is_part_of_the_name(name: str) -> None:
    assert precision_of(name) == "int8"
    assert with_precision(name.removesuffix("_int8"), "int8") == name
