"""First weights: as the sources have them, and the same in an exported network."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import StochasticDepth

from nas.evaluators.supernet.shared_weights import Supernet
from nas.networks.network import build
from nas.networks.pretrained import TORCHVISION
from nas.networks.standalone.source import standalone_source
from nas.networks.standalone.state_names import exported_state
from nas.spaces.yaml_format import load_architecture, parse_space, shipped_files

SMALLEST = {  # the smallest network of each family
    "condensenet": "condensenet50_cifar10_train", "densenet": "densenet67_dsod_backbone_k16",
    "efficientnet": "efficientnet_b0", "mnasnet": "mnasnet_small", "mobilenet_v1": "mobilenet_v1_0.25",
    "mobilenet_v2": "mobilenet_v2_0.35", "mobilenet_v3": "mobilenet_v3_small_1.0", "peleenet": "peleenet",
    "shufflenet_v1": "shufflenet_v1_g3_0.25", "shufflenet_v2": "shufflenet_v2_0.5", "squeezenet": "squeezenet_1.1",
    "squeezenext": "squeezenext_1.0_23", "vovnet": "vovnet27_slim", "efficientdet": "efficientdet_d0",
    "ssd": "mobilenet_v3_small_ssdlite_reducedtail_r320", "mobilenet_v4": "mobilenet_v4_conv_small_0.35",
    "efficientvit": "efficientvit_b0", "lcnet": "lcnet_0.5", "regnet": "regnet_x_002", "resnet": "resnet20",
}  # fmt: skip
COUNTERPARTS = {  # ours -> (torchvision's or timm's, the largest factor between the standard deviations of logits)
    "squeezenet_1.0": ("squeezenet1_0", 3),
    "squeezenet_1.1": ("squeezenet1_1", 3),
    "mobilenet_v2_1.0": ("mobilenet_v2", 1.5),
    "mobilenet_v3_small_1.0": ("mobilenet_v3_small", 1.5),
    "shufflenet_v2_0.5_torchvision": ("shufflenet_v2_x0_5", 4),
    "mnasnet_b1_0.5": ("mnasnet0_5", 4),
    "efficientnet_b0": ("efficientnet_b0", 4),
    "densenet121": ("densenet121", 4),
    "resnet18": ("resnet18", 4),
}


@torch.no_grad()
def spread(model: nn.Module, x: Tensor) -> float:
    """Return the standard deviation of the logits at the first step, without dropout."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.eval()
    logits: Tensor = model(x)
    return logits.std().item()


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_the_first_logits_spread_as_those_of_the_source(name: str) -> None:
    source, factor = COUNTERPARTS[name]
    assert TORCHVISION[name] == source
    x = torch.randn(4, 3, 64, 64)
    ours, theirs = spread(build(load_architecture(name)), x), spread(get_model(source, weights=None), x)
    assert theirs / factor < ours < theirs * factor


def test_squeezenet_has_the_initial_distribution_of_torchvision_in_every_layer() -> None:
    ours = [m for m in build(load_architecture("squeezenet_1.1")).modules() if isinstance(m, nn.Conv2d)]
    theirs = [m for m in get_model("squeezenet1_1", weights=None).modules() if isinstance(m, nn.Conv2d)]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.1)
        assert mine.bias is not None and not mine.bias.any()


def test_every_family_has_a_smallest_network() -> None:
    assert set(SMALLEST) == {path.parent.name for path in shipped_files()} - {"spaces"}


@pytest.mark.parametrize("family", SMALLEST)
def test_an_exported_network_starts_from_the_same_weights(family: str) -> None:
    arch = load_architecture(SMALLEST[family])
    exported = sys.modules["exported"] = types.ModuleType("exported")
    exported.__dict__["__file__"] = "model.py"
    exec(compile(standalone_source(arch, "A network."), "model.py", "exec"), exported.__dict__)
    torch.manual_seed(3)
    ours = exported_state(build(arch).state_dict())
    torch.manual_seed(3)
    theirs = exported.build().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_supernet_starts_from_the_same_distributions() -> None:
    text = {
        "resolution": 16,
        "stages": [{"block": "fire", "out_channels": [64, 128]}],
        "head": {"block": "conv_classifier", "num_classes": 100},
    }
    supernet = Supernet(parse_space("fires", text, "fires"))
    weights = dict(zip(supernet.names, supernet.bank, strict=True))
    squeeze = next(weight for name, weight in weights.items() if "squeeze" in name and "weight" in name)
    head = next(weight for name, weight in weights.items() if "conv_classifier/conv.weight" in name)
    assert squeeze.std().item() == pytest.approx((2 / squeeze[0].numel()) ** 0.5, rel=0.3)
    assert head.std().item() == pytest.approx(0.01, rel=0.1)
