"""Every counterpart in torchvision and timm: its weights, copied over, give the same output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.architecture import Architecture, BlockSpec
from nas.networks.network import build
from nas.networks.pretrained import BATCH_NORM_EPS, TORCHVISION, copy_weights, timm_order
from nas.spaces.yaml_format import load_architecture

PIXELS = 64
TOLERANCE = 1e-5

TIMM = {
    "mobilenetv1_100": "mobilenet_v1_1.0",
    "mobilenetv2_035": "mobilenet_v2_0.35",
    "mobilenetv2_050": "mobilenet_v2_0.5",
    "mobilenetv2_075": "mobilenet_v2_0.75",
    "mobilenetv2_100": "mobilenet_v2_1.0",
    "mobilenetv2_140": "mobilenet_v2_1.4",
    "mobilenetv3_large_075": "mobilenet_v3_large_0.75",
    "mobilenetv3_large_100": "mobilenet_v3_large_1.0",
    "mobilenetv3_small_100": "mobilenet_v3_small_1.0",
    "mobilenetv3_large_minimal_100": "mobilenet_v3_large_minimalistic",
    "mobilenetv3_small_minimal_100": "mobilenet_v3_small_minimalistic",
    "mnasnet_050": "mnasnet_b1_0.5",
    "mnasnet_075": "mnasnet_b1_0.75",
    "mnasnet_100": "mnasnet_b1_1.0",
    "mnasnet_140": "mnasnet_b1_1.4",
    "semnasnet_035": "mnasnet_a1_0.35",
    "semnasnet_050": "mnasnet_a1_0.5",
    "semnasnet_075": "mnasnet_a1_0.75",
    "semnasnet_100": "mnasnet_a1_1.0",
    "semnasnet_140": "mnasnet_a1_1.4",
    "mnasnet_small": "mnasnet_small",
    "vovnet39a": "vovnet39",
    "vovnet57a": "vovnet57",
    "ese_vovnet39b": "ese_vovnet39b",
    "densenet121": "densenet121",
    "mobilenetv4_conv_small_035": "mobilenet_v4_conv_small_0.35",
    "mobilenetv4_conv_small_050": "mobilenet_v4_conv_small_0.5",
    "mobilenetv4_conv_small": "mobilenet_v4_conv_small",
    "mobilenetv4_conv_medium": "mobilenet_v4_conv_medium",
    "mobilenetv4_hybrid_medium": "mobilenet_v4_hybrid_medium",
    "efficientvit_b0": "efficientvit_b0",
    "efficientvit_b1": "efficientvit_b1",
    "lcnet_050": "lcnet_0.5",
    "lcnet_075": "lcnet_0.75",
    "lcnet_100": "lcnet_1.0",
    **{name: name for name in ("resnet18", "resnet34", "resnet50")},
    **{f"regnet{kind}_{size}": f"regnet_{kind}_{size}" for kind in "xy" for size in ("002", "004", "008")},
    **{f"efficientnet_b{index}": f"efficientnet_b{index}" for index in range(8)},
}
"""timm's networks with symmetric padding, and ours."""

LARGE = {f"efficientnet_b{index}" for index in range(4, 8)}
"""The blocks of B0, more of them and wider: they take as long as all others."""

EQUAL: list[str] = []
"""What was equal in this run."""


def slow_if_large(names: Iterable[str]) -> list[Any]:
    """Return the names as parameters, the large networks under the marker `slow`."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


def timm_model(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is in the test extra")
    model: nn.Module
    if "minimal" in name:  # timm lists it with TensorFlow's padding only
        model = timm.models.mobilenetv3._gen_mobilenet_v3(f"tf_{name}", 1.0)
    elif name == "semnasnet_035":
        model = timm.models.efficientnet._gen_mnasnet_a1(name, 0.35)
    else:
        model = timm.create_model(name)
    return model


def torchvision_model(name: str) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None)
    return model


def randomised(make: Callable[[str], nn.Module], name: str) -> nn.Module:
    """Build a network with random weights everywhere, and batch norm statistics that fit them."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = make(name)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dim() > 1:
                gain = 1.0 if tensor.dim() == 4 else 0.1
                tensor.normal_(0, gain * tensor[0].numel() ** -0.5, generator=generator)
            elif key.endswith("weight"):
                tensor.uniform_(0.5, 1.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1, generator=generator)
        hooks = [
            module.register_forward_pre_hook(fit_statistics)
            for module in model.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        model.eval()(images())
    for hook in hooks:
        hook.remove()
    return model


def fit_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set a batch norm to what it sees, its variances near their mean: dead channels amplify rounding."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.uniform_(0.8, 1.2).mul_(inputs[0].var((0, 2, 3)).mean())


def images() -> Tensor:
    return torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))


def batch_norm_eps(model: nn.Module) -> float:
    return next((module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)), BATCH_NORM_EPS)


def without_identity(arch: Architecture) -> Architecture:
    """Return VoVNet as timm has it, without the identities of the authors' code."""

    def plain(spec: BlockSpec) -> BlockSpec:
        return BlockSpec.of(spec.op, {key: value for key, value in spec.args if key != "identity"})

    return replace(arch, stages=tuple(tuple(map(plain, stage)) for stage in arch.stages))


def assert_equal_outputs(model: nn.Module, arch: Architecture) -> None:
    with torch.device("meta"):
        network = build(arch)
    network.to_empty(device="cpu").eval()
    copy_weights(model.state_dict(), network, eps=batch_norm_eps(model))
    with torch.no_grad():
        expected, got = model(images()), network(images())
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "the output must depend on the image"
    assert (got - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", slow_if_large(TORCHVISION))
def test_torchvision_gives_the_same_output(name: str) -> None:
    assert_equal_outputs(randomised(torchvision_model, TORCHVISION[name]), load_architecture(name))
    EQUAL.append(f"torchvision {name}")


@pytest.mark.parametrize("name", slow_if_large(TIMM))
def test_timm_gives_the_same_output(name: str) -> None:
    arch = load_architecture(TIMM[name])
    if name.startswith("vovnet"):
        arch = without_identity(arch)
    assert_equal_outputs(randomised(timm_model, name), arch)
    EQUAL.append(f"timm {name}")


# timm names the layers of DenseNet and ResNet as torchvision does, whose order is looked up.
@pytest.mark.parametrize("name", [name for name in TIMM if not name.startswith(("densenet", "resnet"))])
def test_timm_order_is_the_order_of_definition(name: str) -> None:
    with torch.device("meta"):
        state = timm_model(name).state_dict()
    layers = dict.fromkeys(key.rpartition(".")[0] for key in timm_order(dict(sorted(state.items()))))
    assert list(layers) == list(dict.fromkeys(key.rpartition(".")[0] for key in state))


def test_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Print how many were equal in this run; it stands last in the file."""
    parts = []
    for library, names in (("torchvision", TORCHVISION), ("timm", TIMM)):
        equal = sum(entry.startswith(f"{library} ") for entry in EQUAL)
        parts.append(f"{equal} of {len(names)} networks of {library}")
    with capsys.disabled():
        print(f"\nequal outputs: {', '.join(parts)}; with -m 'slow or not slow' all are run")
