"""The ONNX file of an export: its batch size, its operators, its names and its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas.cli.main import main
from nas.errors import ExportError
from nas.networks.deployment import deploy
from nas.networks.exported_folder import load_exported
from nas.networks.exported_outputs import check_close
from nas.networks.onnx_graph import finish

NETWORK = """
resolution: 16
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, out_channels: 8, expand_ratio: 2, se_ratio: 0.25}
head: {block: classifier, hidden_channels: 16, num_classes: 4}
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    return "net.yaml"


@pytest.mark.parametrize(("batch", "shape", "sizes"), [("dynamic", "batch", (1, 3, 8)), ("4", 4, (4,)), ("1", 1, (1,))])
def test_onnx_runtime_runs_the_batch_sizes(network: str, batch: str, shape: str | int, sizes: tuple[int, ...]) -> None:
    assert main(["export", network, "--batch", batch, "--opset", "17", "--out", "out", "--quiet"]) == 0
    model = onnx.load("out/model.onnx")
    assert model.opset_import[0].version == 17
    (given,), (found,) = model.graph.input, model.graph.output
    assert (given.name, found.name) == ("images", "logits")
    first = [each.type.tensor_type.shape.dim[0] for each in (given, found)]
    assert [dim.dim_param or dim.dim_value for dim in first] == [shape, shape]
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    card = json.loads(Path("out/card.json").read_text())
    assert metadata == {"architecture": card["architecture"], "preprocessing": card["preprocessing"]}
    session = onnxruntime.InferenceSession("out/model.onnx")
    _, eager, _ = load_exported(Path("out"))
    for size in sizes:
        images = torch.randn(size, 3, 16, 16)
        with torch.no_grad():
            expected = deploy(eager)(images).numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, 1e-4, 1e-6)
    assert main(["export", "out", "--out", "again", "--quiet"]) == 0
    assert "onnx" not in json.loads(Path("again/card.json").read_text()), "an export without the flags is usual"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch", "0"], "--batch: must be a number from 1 to 4096, or 'dynamic': '0'"),
        (["--batch", "many"], "--batch: must be a number from 1 to 4096, or 'dynamic': 'many'"),
        (["--opset", "9"], "--opset: must be from 13 to 20: 9"),
    ],
)
def test_a_bad_form_is_one_line(
    network: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", network, *flags, "--out", "out"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"nas export: error: {message}"
    assert not Path("out").exists()


def test_a_detector_takes_one_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["export", "mobilenet_v3_small_ssdlite_reducedtail_r320", "--batch", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--batch: detectors take one image at a time" in capsys.readouterr().err


def test_the_classes_are_in_the_metadata(network: str) -> None:
    assert main(["train", network, "--epochs", "1", "--images", "200", "--out", "run", "--quiet"]) == 0
    entries = {entry.key: json.loads(entry.value) for entry in onnx.load("run/model/model.onnx").metadata_props}
    assert entries["classes"] == [str(number) for number in range(10)]


def test_a_file_that_is_no_valid_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(ExportError, match="is no valid ONNX file"):
        finish(path, {})


def test_outputs_that_differ_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x\.onnx: its output differs from the network's by 0\.5"):
        check_close(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 1e-4, tmp_path / "x.onnx")


def test_the_exporter_by_torch_export_writes_the_same_network(network: str) -> None:
    """torch deprecates the tracing exporter, which is 50 times faster. This is the way when it is removed."""
    pytest.importorskip("onnxscript")
    assert main(["export", network, "--out", "out", "--quiet"]) == 0
    _, eager, _ = load_exported(Path("out"))
    image = torch.randn(1, 3, 16, 16)
    torch.onnx.export(deploy(eager), (image,), "other.onnx", dynamo=True, opset_version=18, verbose=False)
    outputs = []
    for path in ("out/model.onnx", "other.onnx"):
        session = onnxruntime.InferenceSession(path)
        outputs.append(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    np.testing.assert_allclose(outputs[0], outputs[1], 1e-4, 1e-6)
