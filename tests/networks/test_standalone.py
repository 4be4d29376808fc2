"""The exported model.py reads like a textbook: no dead parts, formatted, typed, and usable in all ways of torch."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.source_check import TOOLS, imported
from nas.architecture import Architecture
from nas.networks.network import build, canonical
from nas.networks.outputs import compared
from nas.networks.standalone.source import standalone_source
from nas.networks.standalone.state_names import exported_state, internal_state
from nas.spaces.yaml_format import load_space, parse_space

FAMILIES = ["mobile", "zoo", "condensenet74_c4g4_train", "mobilenet_v4_conv_small", "efficientdet_lite0"]


def sampled(name: str, seed: int = 0) -> Architecture:
    space = load_space(name)
    return canonical(space.decode(space.sample(random.Random(seed)))).at(64)


def plain(**block: Any) -> Architecture:
    stages = [{"block": "conv", "out_channels": 8, "stride": 2}, {"block": "separable", "out_channels": 8, **block}]
    data = {"resolution": 16, "stages": stages, "head": {"block": "classifier", "num_classes": 4}}
    return parse_space("plain", data, "plain").decode({})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files of all families into one folder."""
    folder = tmp_path_factory.mktemp("sources")
    for name in FAMILIES:
        classes = ["cat", "dog"] if name == "mobile" else []
        (folder / f"{name}.py").write_text(standalone_source(sampled(name), "A network.", "pad", classes))
    return folder


def test_a_block_has_only_the_options_that_the_network_uses() -> None:
    source = standalone_source(plain(), "A network.").partition("IMAGENET_MEAN")[0]
    for word in ("se_ratio", "squeeze_excite", "SqueezeExcite", "DropConnect", "drop_connect", "deploy", "skip_layer",
                 "Conv2x2", "raise ValueError", "hard_swish\"" , "Hardswish", "canonical_args"):  # fmt: skip
        assert word not in source, word
    with_se = standalone_source(plain(se_ratio=0.25, activation="hard_swish", skip="identity"), "A network.")
    assert "class SqueezeExcite" in with_se and "nn.Hardswish" in with_se and "return y + x" in with_se
    assert "DropConnect" not in with_se


def test_weights_have_the_names_of_the_stages() -> None:
    state = build(plain()).state_dict()
    named = exported_state(state)
    assert "stage1.0.pointwise.1.weight" in named and internal_state(named).keys() == state.keys()
    foreign = {"stage1.0.weight": torch.zeros(1), "conv1.weight": torch.zeros(1)}
    assert internal_state(foreign) == foreign


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_computes_as_the_network_that_was_searched(name: str, exported: Path) -> None:
    arch = sampled(name)
    torch.manual_seed(0)
    ours = build(arch)
    torch.manual_seed(0)
    theirs = imported(exported / f"{name}.py").build()
    x = torch.randn(2, *arch.input_shape)
    for mode in (False, True):
        outputs = []
        for network in (ours, theirs):
            torch.manual_seed(1)
            outputs.append(compared(network.train(mode)(x)))
        assert torch.equal(*outputs)


def test_ruff_and_strict_mypy_accept_the_files(exported: Path) -> None:
    files = sorted(map(str, exported.glob("*.py")))
    for options in TOOLS:
        command = [sys.executable, "-m", *options, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=exported)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_file_imports_with_torch_alone(exported: Path) -> None:
    source = (exported / "mobile.py").read_text()
    tops = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(tops) - {"__future__"} <= {*sys.stdlib_module_names, "torch"}
    assert 'CLASSES = ("cat", "dog")' in source and 'FIT = "pad"' in source and "http" not in source


def test_a_file_loads_from_torch_save_with_other_classes_and_as_features(exported: Path, tmp_path: Path) -> None:
    arch = sampled("mobile")
    model = build(arch)
    path = tmp_path / "model.py"
    path.write_text((exported / "mobile.py").read_text())
    torch.save(exported_state(model.state_dict()), tmp_path / "model.pt")
    module = imported(path)
    x = torch.randn(2, *arch.input_shape)
    with torch.no_grad():
        assert torch.equal(module.load()(x), model.eval()(x))
    other = module.load(num_classes=7)
    assert other(x).shape == (2, 7)
    assert torch.equal(other.stage0[0].conv[0].weight, model.stages[0][0].conv[0].weight)  # type: ignore[index]
    maps = module.load(features=True)(x)
    heights = [each.shape[2] for each in maps]
    assert heights == sorted(set(heights), reverse=True) and heights[-1] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_file_scripts_traces_exports_and_runs_in_half_precision(exported: Path) -> None:
    arch = sampled("mobile")
    network = imported(exported / "mobile.py").build().eval()
    x = torch.randn(2, *arch.input_shape)
    with torch.no_grad():
        expected = network(x)
        trace: Any = torch.jit.trace
        for compiled in (torch.jit.script(network), trace(network, x)):
            torch.testing.assert_close(compiled(x), expected)
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(program.module()(x.repeat(3, 1, 1, 1)), expected.repeat(3, 1), rtol=1e-4, atol=1e-5)
        assert network.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
