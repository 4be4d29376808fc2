"""A classifier's weights for a detector: the backbone takes them, and what is fresh is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.errors import WeightsError
from nas.networks.network import build
from nas.networks.pretrained import load_fitting
from nas.spaces.yaml_format import load_architecture


def test_the_backbone_of_a_classifier_comes_along(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build(load_architecture("mobilenet_v2_1.0"))
    save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    detector = build(load_architecture("mobilenet_v2_ssdlite_c81_r320"))
    head = {key: value.clone() for key, value in detector.head.state_dict().items()}
    said = load_fitting(detector, str(tmp_path / "model.safetensors"), "mobilenet_v2_ssdlite_c81_r320")
    assert "layers of the backbone; neck and head are fresh; then " in said
    first = "stages.3."
    own, other = (
        [value for key, value in network.state_dict().items() if key.startswith(first)]
        for network in (detector, classifier)
    )
    assert own and all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert all(torch.equal(value, head[key]) for key, value in detector.head.state_dict().items())


def test_a_checkpoint_of_torchvision_fits_the_whole_backbone(tmp_path: Path) -> None:
    from torchvision.models import efficientnet_b0

    theirs = efficientnet_b0(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "b0.pth")
    detector = build(load_architecture("efficientdet_d0"))
    said = load_fitting(detector, str(tmp_path / "b0.pth"), "efficientdet_d0")
    assert said.endswith("of the backbone; neck and head are fresh")
    ours = next(iter(detector.stages[6].state_dict().values()))
    assert any(torch.equal(ours, value) for value in theirs.state_dict().values() if value.shape == ours.shape)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file({"stages.0.0.conv.0.weight": torch.zeros(7, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"x.safetensors: .*"):
        load_fitting(build(load_architecture("efficientdet_d0")), str(tmp_path / "x.safetensors"), "efficientdet_d0")
