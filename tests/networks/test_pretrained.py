"""Checkpoints: which are read, which are refused, and with what error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.errors import WeightsError
from nas.networks.network import build
from nas.networks.pretrained import TORCHVISION, WRAPPERS, copy_weights, load_weights, read_checkpoint
from nas.spaces.yaml_format import load_architecture, load_space

NAME = "shufflenet_v2_0.5_torchvision"
State = dict[str, Tensor]


def counterpart() -> nn.Module:
    from torchvision.models import get_model

    torch.manual_seed(0)
    model: nn.Module = get_model(TORCHVISION[NAME], weights=None)
    return model.eval()


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))
    return found


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}])
def test_a_file_of_torchvision(tmp_path: Path, suffix: str, wrap: Callable[[State], State]) -> None:
    model, path = counterpart(), tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(wrap(model.state_dict()), path)
    else:
        save_file(model.state_dict(), path)
    network = build(load_architecture(NAME))
    assert load_weights(network, str(path), NAME) == str(path)
    assert (output(network) - output(model)).abs().max() <= 1e-5


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_checkpoint_of_a_training_script(tmp_path: Path, wrapper: str) -> None:
    """Nested, with the prefix of a parallel module, the counter of an average, and other entries; in a .bin file."""
    state = {f"module.{key}": value for key, value in counterpart().state_dict().items()}
    torch.save({"epoch": 3, wrapper: {"n_averaged": torch.tensor(9), **state}}, path := tmp_path / "model.bin")
    network = build(load_architecture(NAME))
    load_weights(network, str(path), NAME)
    assert (output(network) - output(counterpart())).abs().max() <= 1e-5


def test_an_average_is_preferred(tmp_path: Path) -> None:
    state = counterpart().state_dict()
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"state_dict": zeros, "state_dict_ema": state}, path := tmp_path / "model.pth")
    assert all(torch.equal(value, state[key]) for key, value in read_checkpoint(path).items())


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = counterpart().half().state_dict()
    save_file(state, path := tmp_path / "model.safetensors")
    network = build(load_architecture(NAME))
    load_weights(network, str(path), NAME)
    assert output(network).dtype == torch.float32
    assert all(value.dtype != torch.float16 for value in read_checkpoint(path).values())


def test_our_own_file(tmp_path: Path) -> None:
    source, path = build(load_architecture(NAME)), tmp_path / "model.safetensors"
    save_file(source.state_dict(), path)
    network = build(load_architecture(NAME))
    load_weights(network, str(path), NAME)
    assert torch.equal(output(network), output(source))


def test_a_file_of_timm_without_order(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is in the test extra")
    model, path = timm.create_model("mobilenetv3_small_100"), tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    network = build(load_architecture("mobilenet_v3_small_1.0"))
    load_weights(network, str(path), "mobilenet_v3_small_1.0")
    assert (output(network) - output(model)).abs().max() <= 1e-5


def test_other_classes_keep_their_classifier() -> None:
    network = build(load_space(NAME).for_classes(7).decode({}))
    before = [parameter.clone() for parameter in network.head.parameters()][-2:]
    copy_weights(counterpart().state_dict(), network, classifier=False)
    after = list(network.head.parameters())[-2:]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert output(network).shape == (1, 7)


def missing(state: State) -> None:
    del state["stage2.0.branch1.0.weight"]


def extra(state: State) -> None:
    state["stage9.weight"] = torch.zeros(3)


def misshapen(state: State) -> None:
    state["conv1.0.weight"] = torch.zeros(24, 3, 5, 5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("spoil", "named"),
    [(missing, "stage2.0.branch1.0.weight"), (extra, "stage9.weight"), (misshapen, "conv1.0.weight")],
)
def test_a_wrong_checkpoint_is_named_and_nothing_copied(
    tmp_path: Path, spoil: Callable[[State], None], named: str, suffix: str
) -> None:
    state, path = dict(counterpart().state_dict()), tmp_path / f"model{suffix}"
    spoil(state)
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    network = build(load_architecture(NAME))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match=named):
        load_weights(network, str(path), NAME)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_a_state_dict_without_names_of_ours_is_compared_layer_by_layer() -> None:
    network = build(load_architecture(NAME))
    state = {f"x.{key}": tensor for key, tensor in counterpart().state_dict().items()}
    copy_weights(state, network)
    short = dict(list(state.items())[:-2])
    with pytest.raises(WeightsError, match=r"no layer for 'head\.linear'"):
        copy_weights(short, network)
    with pytest.raises(WeightsError, match=r"'x.fc' has no bias, but 'head.linear' needs one"):
        copy_weights({key: tensor for key, tensor in state.items() if key != "x.fc.bias"}, network)
    with pytest.raises(WeightsError, match="the network has no layer for 'y'"):
        copy_weights({**state, "y.weight": torch.zeros(1)}, network)


class Runs:
    """What a pickle does that is not a checkpoint."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Runs()}, "evil.pth")
    with pytest.raises(WeightsError, match="contains more than tensors"):
        load_weights(build(load_architecture(NAME)), "evil.pth", NAME)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "not a checkpoint"), (b"text", "not loaded|not a checkpoint"), (None, "no such file")],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes | None, said: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_weights(build(load_architecture(NAME)), str(path), NAME)


def test_no_counterpart_is_told_with_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"torchvision has no weights for 'mobilenet_v2_0\.5'"):
        load_weights(build(load_architecture("mobilenet_v2_0.5")), "torchvision", "mobilenet_v2_0.5")


def test_torchvision_by_name_brings_its_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import WeightsEnum, mobilenet_v3_small

    name, model = "mobilenet_v3_small_1.0", mobilenet_v3_small(weights=None)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: model.state_dict())
    network = build(load_architecture(name))
    assert load_weights(network, "torchvision", name) == "torchvision mobilenet_v3_small IMAGENET1K_V1"
    assert (output(network) - output(model)).abs().max() <= 1e-5


def test_a_failed_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import WeightsEnum

    def fails(*_: object, **__: object) -> State:
        raise OSError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fails)
    with pytest.raises(WeightsError, match="mobilenet_v2: cannot be downloaded: no route to host"):
        load_weights(build(load_architecture("mobilenet_v2_1.0")), "torchvision", "mobilenet_v2_1.0")
