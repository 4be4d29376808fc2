from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from nas.architecture import Architecture
from nas.devices.runtimes import RUNTIMES, make_runtime
from nas.devices.runtimes.support import tensors_of
from nas.errors import DeviceError, ExportError, RunError
from nas.networks.block_schema import keywords
from nas.networks.export import export_folder
from nas.networks.exported_folder import check_input, load_exported
from nas.networks.network import build, canonical
from nas.networks.standalone.source import standalone_source
from nas.networks.standalone.state_names import exported_state
from nas.spaces.yaml_format import load_architecture, load_space, parse_space, space_names, space_path

SMALL = """
resolution: 32
stages: [{block: mbconv, out_channels: 8, stride: 2, se_ratio: 0.25}]
head: {block: classifier, num_classes: 10}
"""


@pytest.fixture
def exported_file_runs_here() -> None:
    """Start a process for each exported file, as the product does."""


def small(name: str, seed: int = 0) -> Architecture:
    space = load_space(name)
    if "num_classes" in keywords(space.head.operators[0].block):
        space = space.for_classes(10)
    return canonical(space.decode(space.sample(random.Random(seed)))).at(64)


def test_an_exported_folder_runs_without_us(tmp_path: Path) -> None:
    arch = small("mobile", 3)
    torch.manual_seed(0)
    model = build(arch)
    card = export_folder(arch, model, tmp_path / "model", "torch", {"accuracy": 0.5})
    folder = tmp_path / "model"
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.py", "model.safetensors", "model.onnx", "model.pt2", "card.json"}
    blocker = "import sys; sys.modules['nas'] = None; import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", blocker, str(folder / "model.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{card['params']} parameters" in done.stdout
    assert "import nas" not in (folder / "model.py").read_text()
    assert "from nas" not in (folder / "model.py").read_text()
    assert json.loads((folder / "card.json").read_text())["accuracy"] == 0.5


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "torch_compile"])
def test_a_folder_holds_the_form_of_every_runtime(runtime: str, tmp_path: Path) -> None:
    try:
        suffix = make_runtime(runtime).suffix
    except DeviceError as error:
        pytest.skip(str(error))
    arch = parse_space("small", yaml.safe_load(SMALL), "small").decode({})
    images = torch.randn(16, *arch.input_shape) if runtime.endswith("int8") else None
    export_folder(arch, build(arch), tmp_path / "model", runtime, {}, images=images)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    weights = {"model.int8.bin"} if runtime == "openvino_int8" else set()
    assert names == {"model.py", "model.safetensors", "model.onnx", f"model{suffix}", "card.json", *weights}


def test_an_exported_folder_loads_again(tmp_path: Path) -> None:
    arch = small("mobile")
    model = build(arch)
    export_folder(arch, model, tmp_path / "model", "onnxruntime", {})
    again, network, _ = load_exported(tmp_path / "model")
    assert again == arch
    with torch.no_grad():
        torch.testing.assert_close(network(check_input((3, 64, 64))), model.eval()(check_input((3, 64, 64))))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(RunError, match="not an exported network"):
        load_exported(tmp_path / "model")


def one_of_each_kind() -> list[str]:
    """Return, for each set of blocks that a shipped file uses, the file with the fewest parameters.

    The parameters are those that the file's header tells, which another test holds to be true; a space has none.
    """
    kinds: dict[frozenset[str], tuple[int, str]] = {}
    for name in space_names():
        told = re.search(r"([\d,]+) parameters", space_path(name).read_text())
        candidate = (int(told[1].replace(",", "")) if told else 0, name)
        space = load_space(name)
        blocks = frozenset(operator.block for slot in space.slots for operator in slot.operators)
        kinds[blocks] = min(kinds.get(blocks, candidate), candidate)
    return sorted(name for _, name in kinds.values())


@pytest.mark.parametrize("name", one_of_each_kind())
def test_the_source_of_every_kind_of_space_builds_the_same_network(name: str, tmp_path: Path) -> None:
    arch = small(name, 1)
    if "ssd_head" in {spec.op for spec in (*arch.blocks(), arch.head)}:
        arch = arch.at(load_space(name).resolution[0])  # its last maps have one pixel
    source = standalone_source(arch, "A network.")
    scope: dict[str, object] = {"__name__": "model", "__file__": str(tmp_path / "model.py")}
    exec(compile(source, "model.py", "exec"), scope)
    torch.manual_seed(0)
    ours = build(arch).eval()
    theirs = scope["build"]()  # type: ignore[operator]
    theirs.load_state_dict(exported_state(ours.state_dict()))
    x = torch.randn(2, 3, arch.resolution, arch.resolution)
    with torch.no_grad():
        outputs = [tensors_of(model.eval()(x)) for model in (theirs, ours)]
    assert all(torch.equal(own, other) for own, other in zip(*outputs, strict=True))


def test_a_network_that_does_not_run_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = load_architecture("mobilenet_v2_1.0").at(32)
    monkeypatch.setattr("nas.networks.export.standalone_source", lambda *_: "raise ValueError('broken on purpose')")
    with pytest.raises(ExportError, match="does not run: ValueError: broken on purpose"):
        export_folder(arch, build(arch), tmp_path / "model", "onnxruntime", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("x")
    arch = load_architecture("mobilenet_v2_1.0").at(32)
    with pytest.raises(RunError, match="is not an exported network"):
        export_folder(arch, build(arch), tmp_path / "model", "onnxruntime", {})
    assert (tmp_path / "model" / "thesis.tex").read_text() == "x"
