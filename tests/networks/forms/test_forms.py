"""Further forms of an exported network: each is written, checked, and told in the card."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nas.architecture import Architecture
from nas.cli.main import main
from nas.errors import ExportError
from nas.networks.export import export_folder
from nas.networks.exported_folder import check_input, load_exported
from nas.networks.forms import FORMS, torch_program
from nas.networks.network import Network, build
from nas.spaces.yaml_format import parse_space

NETWORK = """
resolution: 16
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, out_channels: 8, expand_ratio: 2, se_ratio: 0.25}
head: {block: classifier, hidden_channels: 16, num_classes: 4}
"""
FACTS: dict[str, Any] = {
    "test_accuracy": 0.7,
    "float32": {"test_accuracy": 0.75},
    "data": {"name": "cells", "classes": ["a", "b", "c", "d"]},
    "latency_ms": {"measured": 1.25, "energy": None},
}


@pytest.fixture
def network() -> tuple[Architecture, Network]:
    arch = parse_space("net", yaml.safe_load(NETWORK), "net").decode({})
    torch.manual_seed(0)
    return arch, build(arch).eval()


def exported(network: tuple[Architecture, Network], folder: Path, *forms: str) -> dict[str, Any]:
    card = export_folder(*network, folder, "onnxruntime", FACTS, forms=forms)
    assert json.loads((folder / "card.json").read_text())["forms"] == card["forms"]
    return dict(card["forms"])


def test_the_card_tells_the_size_of_each_form_and_that_it_was_checked(network: Any, tmp_path: Path) -> None:
    forms = exported(network, tmp_path / "model", "pt", "pt2", "hub")
    assert list(forms) == ["onnxruntime", "pt", "pt2", "hub"]
    for form in forms.values():
        path = tmp_path / "model" / form["file"]
        size = path.stat().st_size if path.is_file() else sum(part.stat().st_size for part in path.iterdir())
        assert form == {"file": path.name, "bytes": size, "checked": True}


def test_a_form_that_cannot_be_run_here_says_so(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    assert main(["export", "net.yaml", "--runtime", "null", "--out", "out", "--quiet"]) == 0
    entry = json.loads(Path("out/card.json").read_text())["forms"]["null"]
    assert entry["checked"] is False and entry["reason"] == "the null runtime computes no outputs"
    assert "its output was not compared: the null runtime computes no outputs" in capsys.readouterr().err


def test_torch_load_gives_the_weights(network: Any, tmp_path: Path) -> None:
    exported(network, tmp_path / "model", "pt")
    (tmp_path / "model" / "model.safetensors").unlink()
    namespace: dict[str, Any] = {"__name__": "model", "__file__": str(tmp_path / "model" / "model.py")}
    exec((tmp_path / "model" / "model.py").read_text(), namespace)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(namespace["load"]()(x), network[1](x))
    assert namespace["CLASSES"] == ("a", "b", "c", "d")


def test_a_program_of_torch_export_takes_any_batch(network: Any, tmp_path: Path) -> None:
    exported(network, tmp_path / "model", "pt2")
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    x = torch.randn(7, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(program(x), network[1](x), rtol=1e-4, atol=1e-6)


def test_a_form_that_computes_something_else_is_refused_and_nothing_is_left(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build(network[0]).eval()
    monkeypatch.setattr(torch_program, "deploy", lambda _: other)
    with pytest.raises(ExportError, match=r"model\.pt2: its output differs"):
        exported(network, tmp_path / "model", "pt2")
    assert not list(tmp_path.iterdir())


def test_the_hub_reads_the_folder(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, which timm brings along")
    exported(network, tmp_path / "model", "hub")
    folder = tmp_path / "model" / "hub"
    card = hub.ModelCard((folder / "README.md").read_text())
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "pytorch"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.75, "cells")
    assert "| latency, measured | 1.25 ms |" in card.text and "energy" not in card.text
    assert json.loads((folder / "config.json").read_text())["num_classes"] == 4
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    import model  # type: ignore[import-not-found]

    loaded = model.HubNetwork.from_pretrained(folder).eval()
    x = check_input((3, 16, 16))
    with torch.no_grad():
        assert torch.equal(loaded(x), network[1](x))
    monkeypatch.delitem(sys.modules, "model")


def test_openvino_ir_is_written_beside_the_onnx_file(network: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    forms = exported(network, tmp_path / "model", "openvino")
    assert forms["openvino"]["file"] == "model.xml" and forms["openvino"]["checked"]
    assert (tmp_path / "model" / "model.bin").is_file()


def test_core_ml_is_written_and_checked_on_macos_only(network: Any, tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="needs coremltools")
    forms = exported(network, tmp_path / "model", "coreml")
    assert (tmp_path / "model" / "model.mlpackage").is_dir()
    assert forms["coreml"]["checked"] == (platform.system() == "Darwin")


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--format", "ptt"], "--format: unknown form 'ptt'; did you mean 'pt'?"),
        (["--format", "ncnn", "--precision", "int8"], "runtime 'ncnn' has none"),
        (["--format", "onnxruntime_int8"], "int8 needs images"),
    ],
)
def test_a_wrong_form_is_one_line(
    flags: list[str], rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    assert main(["export", "net.yaml", *flags, "--out", "out", "--quiet"]) == 2
    assert rule in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_export_again_forgets_the_forms_of_before(network: Any, tmp_path: Path) -> None:
    exported(network, tmp_path / "model", "pt")
    arch, model, card = load_exported(tmp_path / "model")
    assert "pt" in card["forms"] and isinstance(model, Network)
    assert list(exported((arch, model), tmp_path / "model")) == ["onnxruntime"]
    assert not (tmp_path / "model" / "model.pt").exists()


def test_every_form_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "forms", "--json"]) == 0
    listed = {row["name"]: row["about"] for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == FORMS.keys() and all(listed.values())


FOURIER = '''
from __future__ import annotations

import torch
from torch import Tensor, nn


class Fourier(nn.Module):
    """A convolution and the real part of a Fourier transform."""

    def __init__(self, in_channels: int, *, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        return torch.fft.fft2(self.conv(x)).real
'''


def test_an_operator_that_a_form_lacks_is_named_with_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fourier_block.py").write_text(FOURIER)
    Path("net.yaml").write_text(
        NETWORK.replace("head:", "  - {block: 'fourier_block:Fourier', out_channels: 8}\nhead:")
    )
    assert main(["export", "net.yaml", "--out", "out", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert "'aten::fft_fft2'" in message
    assert "the first layer that it cannot express is in stage2: fourier_block:Fourier(out_channels=8)" in message
    assert not Path("out").exists()
