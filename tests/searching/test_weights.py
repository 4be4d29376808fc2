"""A search with --weights: candidates, winner and references start from a pretrained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architecture import Architecture
from nas.cli.main import main
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.supernet.evaluator import fill_bank
from nas.evaluators.supernet.shared_weights import Supernet
from nas.evaluators.supernet.training import SubnetSampler
from nas.networks.export import export_folder
from nas.networks.network import build, canonical
from nas.networks.pretrained import TORCHVISION
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_architecture, load_space
from nas.training.pretrained_network import PretrainedNetwork, most_common, read_pretrained
from nas.training.tasks.classification import Classification

pytestmark = pytest.mark.usefixtures("warm_cache")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_space: Path) -> PretrainedNetwork:
    """A network of the tiny space with random weights, exported to the folder `pretrained`; stand beside it."""
    monkeypatch.chdir(tmp_path)
    space = load_space("tiny.yaml").for_classes(10)
    arch = SubnetSampler.of(space).largest
    torch.manual_seed(5)
    network = build(arch).eval()
    export_folder(arch, network, Path("pretrained"), "null", {}, "crop")
    return PretrainedNetwork("pretrained", arch, network)


def test_a_search_starts_from_weights_and_records_them(
    source: PretrainedNetwork, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[Architecture]()
    initialize = PretrainedNetwork.initialize

    def noted(self: PretrainedNetwork, network: nn.Module, arch: Architecture) -> Any:
        assert self.digest == source.digest
        started.append(arch)
        return initialize(self, network, arch)

    monkeypatch.setattr(PretrainedNetwork, "initialize", noted)
    flags = ["--space", "tiny.yaml", "--runtime", "null", "--target-latency", "1s", "--trials", "2", "--run", "run"]
    search = ["search", *flags, "--controller", "random", "--finalist-seeds", "0", "--json"]
    assert main([*search, "--weights", "pretrained", "--against", "mobilenet_v3_small_1.0"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "weights of pretrained: the network of the last choices inherits" in captured.err
    digest = canonical(source.architecture).digest  # the network that inherits everything is a candidate
    assert f"--weights pretrained: tried first: {digest}" in captured.err
    assert result["candidates"][0]["architecture"] == digest
    assert result["settings"]["weights"] == "pretrained"
    assert result["settings"]["proxy"]["weights"] == source.digest
    digests = [arch.digest for arch in started]
    (reference,) = result["against"]
    for digest in (result["best"]["architecture"], reference["architecture"]):
        assert digests.count(digest) >= 1, "the winner and the reference inherit too"
    assert main([*search, "--against", "mobilenet_v3_small_1.0"]) == 2
    assert "weights is 'pretrained' there and None now" in capsys.readouterr().err


def test_an_evaluation_starts_from_what_the_candidate_inherits(source: PretrainedNetwork, tmp_path: Path) -> None:
    space = load_space("tiny.yaml").for_classes(10)
    task = Classification.load("digits")
    plain, started = (
        ProxyTraining(EvaluatorContext(task, space, tmp_path, pretrained=each)) for each in (None, source)
    )
    curves = [list(each.evaluate(source.architecture, 0)) for each in (plain, started, started)]
    assert curves[1] == curves[2] != curves[0]
    assert started.settings == {**plain.settings, "weights": source.digest}


def test_a_supernet_begins_with_the_weights(source: PretrainedNetwork) -> None:
    space = load_space("tiny.yaml").for_classes(10)
    supernet = Supernet(space)
    fill_bank(supernet, source)
    whole = supernet.extract(source.architecture)
    for name, parameter in source.network.named_parameters():
        assert torch.equal(whole.get_parameter(name), parameter), name


@pytest.fixture
def few_networks_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "mnasnet",
        "mobilenet_v3_small_1.0",
        "mobilenet_v3_small_ssdlite_r320",
        "densenet67_dsod_backbone_k16",
        "resnet20",
    ]
    monkeypatch.setattr("nas.training.pretrained_network.space_names", lambda: names)


@pytest.mark.usefixtures("few_networks_ship")
@pytest.mark.parametrize(("classes", "suffix"), [(1000, ".pth"), (7, ".safetensors")])
def test_a_file_is_of_the_shipped_network_that_it_fits(tmp_path: Path, classes: int, suffix: str) -> None:
    from safetensors.torch import save_file

    arch = load_architecture("mobilenet_v3_small_1.0").for_classes(classes)
    torch.manual_seed(1)
    state = build(arch).state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    found = read_pretrained(str(path), arch)
    assert found.architecture.for_classes(classes).digest == arch.digest
    assert all(torch.equal(found.network.state_dict()[key], value) for key, value in state.items())
    assert found.name == f"{path} (mobilenet_v3_small_1.0)"


def test_torchvision_has_networks_of_the_same_family(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: TORCHVISION[name] for name in ("resnet18", "mobilenet_v3_small_1.0", "squeezenet_1.1")}
    monkeypatch.setattr("nas.training.pretrained_network.TORCHVISION", few)
    assert most_common(load_architecture("mobilenet_v3_small_1.0")) == "mobilenet_v3_small_1.0"
    assert most_common(load_architecture("resnet20")) == "resnet18"


@pytest.mark.usefixtures("few_networks_ship")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.pth", "--weights: absent.pth: no such file"),
        ("odd.pth", "--weights: odd.pth: has 6 parameters, which no shipped network has; give the folder that `nas"),
        ("text.pth", "--weights: text.pth: not"),
        ("empty", "--weights: "),
    ],
)
def test_bad_weights_are_one_line_before_anything_is_written(
    given: str, message: str, source: PretrainedNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"layer.weight": torch.zeros(2, 3)}, "odd.pth")
    Path("text.pth").write_text("no weights")
    Path("empty").mkdir()
    flags = ["--runtime", "null", "--target-latency", "1s", "--trials", "1", "--run", "run", "--weights", given]
    assert main(["search", "--space", "tiny.yaml", *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert message in line
    assert not Path("run").exists()


def test_the_largest_choices_are_a_network_of_the_space(source: PretrainedNetwork) -> None:
    from nas.searching.evaluation import largest_choices

    space: Space = load_space("tiny.yaml").for_classes(10)
    assert (
        source.describe(largest_choices(space))
        .split(" parameters")[0]
        .endswith(f"{sum(each.numel() for each in build(largest_choices(space)).parameters()):,}")
    )
