"""Reference detectors: equal counts with independent implementations, and equal outputs for copied weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architecture import Architecture
from nas.networks.cost_counter import CostCounter
from nas.networks.deployment import deploy
from nas.networks.network import build, totals, trace
from nas.spaces.yaml_format import load_architecture, shipped_files

FACTS = Path(__file__).parents[3] / "shared" / "facts" / "reference_models.json"
GOLDEN = {
    "efficientdet_d0": (3_880_067, 2_492_331_520),
    "efficientdet_d1": (6_625_898, 6_003_416_880),
    "efficientdet_d2": (8_097_039, 10_832_466_688),
    "efficientdet_d3": (12_032_296, 24_568_753_664),
    "efficientdet_d4": (20_723_675, 54_583_712_096),
    "efficientdet_d5": (33_653_315, 134_133_865_152),
    "efficientdet_d6": (51_871_782, 224_121_477_984),
    "efficientdet_d7": (51_871_782, 322_731_636_576),
    "efficientdet_d7x": (77_147_166, 407_628_345_344),
    "efficientdet_lite0": (3_243_470, 973_589_696),
    "efficientdet_lite1": (4_248_318, 1_966_649_904),
    "efficientdet_lite2": (5_252_334, 3_371_304_384),
    "efficientdet_lite3": (8_350_862, 7_480_187_904),
    "efficientdet_lite4": (15_130_894, 20_168_084_000),
    "mobilenet_v2_ssdlite_c81_r320": (4_337_013, 788_830_144),
    "mobilenet_v2_ssdlite_c91_r320": (4_500_543, 804_397_504),
    "mobilenet_v2_ssdlite_voc21_r320": (3_355_833, 695_425_984),
    "mobilenet_v3_large_ssdlite_r320": (5_006_735, 613_143_104),
    "mobilenet_v3_large_ssdlite_reducedtail_r320": (3_248_255, 506_563_904),
    "mobilenet_v3_small_ssdlite_r320": (2_518_271, 210_417_856),
    "mobilenet_v3_small_ssdlite_reducedtail_r320": (1_785_743, 162_303_424),
    "pelee_ssd_voc": (5_425_892, 1_204_968_960),
    "pelee_ssd_coco": (5_981_012, 1_283_950_080),
    "dsod300_densenet67_k16_voc": (5_833_372, 5_297_838_848),
    "dsod300_k48_voc": (14_715_804, 15_079_798_528),
}
"""Parameters and MACs, counted on effdet, torchvision and the authors' prototxts; at each file's own input."""


@pytest.mark.parametrize("name", GOLDEN)
def test_a_detector_has_the_parameters_and_macs_of_its_source(name: str) -> None:
    whole = totals(trace(load_architecture(name)))
    assert (whole.params, whole.macs) == GOLDEN[name]


def test_every_shipped_detector_is_compared() -> None:
    detectors = [file.stem for file in shipped_files() if file.parent.name in ("efficientdet", "ssd")]
    assert sorted(detectors) == sorted(GOLDEN)


@pytest.mark.skipif(not FACTS.is_file(), reason="../shared/facts is not here")
def test_the_counts_are_those_of_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    lists = [value for value in json.loads(FACTS.read_text()).values() if isinstance(value, list)]
    rows = next(rows for rows in lists if rows and isinstance(rows[0], dict) and "id" in rows[0])
    facts = {row["id"]: (row["params"], row["macs"]) for row in rows if "macs" in row}
    covered = [name for name in GOLDEN if name in facts]
    equal = [name for name in covered if facts[name] == GOLDEN[name]]
    with capsys.disabled():
        rest = f"the facts have {len(covered)} of {len(GOLDEN)} detectors"
        print(f"\ndetectors: {len(equal)} of {len(covered)} have the parameters and MACs of the facts; {rest}")
    assert len(equal) == len(covered) >= 21


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("efficientdet_")])
def test_the_counts_are_those_of_effdet(name: str) -> None:
    effdet = pytest.importorskip("effdet", reason="effdet is not installed: pip install effdet")
    config = effdet.get_efficientdet_config(f"tf_{name}")
    with torch.device("meta"):
        model: Any = effdet.EfficientDet(config, pretrained_backbone=False).eval()
        x = torch.empty(1, 3, *config.image_size)
    with torch.no_grad(), CostCounter() as cost:
        model(x)
    assert (sum(parameter.numel() for parameter in model.parameters()), cost.macs) == GOLDEN[name]


@pytest.mark.parametrize(("name", "resolution"), [("efficientdet_d0", 128), ("pelee_ssd_voc", 304)])
def test_a_deployed_detector_computes_the_same(name: str, resolution: int) -> None:
    torch.manual_seed(0)
    model = build(load_architecture(name).at(resolution)).eval()
    x = torch.randn(1, 3, resolution, resolution)
    with torch.no_grad():
        for own, other in zip(deploy(model)(x), model(x), strict=True):
            assert (own - other).abs().max().item() <= 1e-4 * other.abs().max().item()


def test_the_taps_of_a_backbone_are_its_features() -> None:
    d0 = load_architecture("efficientdet_d0")
    backbone = Architecture(128, d0.stages, load_architecture("densenet67_k48_backbone").head, d0.taps)
    maps = build(backbone).eval()(torch.zeros(1, 3, 128, 128))
    assert [tuple(x.shape[1:]) for x in maps] == [(40, 16, 16), (112, 8, 8), (320, 4, 4)]


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy weights between modules that have the same tensors in the same order."""
    theirs, ours = (list(module.state_dict().values()) for module in (source, target))
    for their, our in zip(theirs, ours, strict=True):
        assert their.numel() == our.numel()
        our.copy_(their.reshape(our.shape))


@torch.no_grad()
def test_d0_computes_what_effdet_computes() -> None:
    effdet = pytest.importorskip("effdet", reason="effdet is not installed: pip install effdet")
    torch.manual_seed(0)
    config: Any = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.pad_type, config.backbone_name = "", "efficientnet_b0"  # padding as in torch, not as in TensorFlow
    theirs: Any = effdet.EfficientDet(config, pretrained_backbone=False).eval()
    ours: Any = build(load_architecture("efficientdet_d0")).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    copy_in_order(theirs.backbone, ours.stages)
    for cell, own in zip(theirs.fpn.cell, ours.neck[0], strict=True):
        copy_cell(theirs.fpn, cell, own)
    for tower, own in ((theirs.class_net, ours.head.classes), (theirs.box_net, ours.head.boxes)):
        copy_in_order(tower.conv_rep, own.convs)
        copy_in_order(tower.bn_rep, own.norms)
        copy_in_order(tower.predict, own.predict)
    x = torch.randn(1, 3, 512, 512)
    classes, boxes = theirs(x)
    own_boxes, own_classes = ours(x)
    for levels, own, width in ((boxes, own_boxes, 4), (classes, own_classes, 90)):
        expected = torch.cat([level.permute(0, 2, 3, 1).reshape(1, -1, width) for level in levels], 1)
        assert (own - expected).abs().max().item() <= 1e-4 * expected.abs().max().item()


def copy_cell(fpn: Any, cell: Any, own: Any) -> None:
    """Copy one BiFPN cell. effdet's eight nodes are P6, P5, P4 and P3 top-down, then P4, P5, P6 and P7."""
    nodes = list(cell.fnode)
    ours = [*(own.top_down[level] for level in (3, 2, 1, 0)), *own.bottom_up]
    for node, fuse in zip(nodes, ours, strict=True):
        fuse.weights.copy_(node.combine.edge_weights)
        copy_in_order(node.after_combine.conv, fuse.conv)
    if isinstance(own.lateral[0], nn.Identity):
        return
    copy_in_order(fpn.resample["3"], own.extra)
    for level, index in ((2, 1), (1, 2), (0, 3)):
        copy_in_order(nodes[index].combine.resample[str(level)], own.lateral[level])
    copy_in_order(nodes[4].combine.resample["1"], own.second[0])
    copy_in_order(nodes[5].combine.resample["2"], own.second[1])


@torch.no_grad()
def test_ssdlite_computes_what_torchvisions_computes() -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    theirs: Any = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()
    arch = load_architecture("mobilenet_v3_large_ssdlite_reducedtail_r320")
    head = arch.head.with_args({"first_anchors": 6})  # torchvision has six anchors on the first map too
    ours: Any = build(replace(arch, head=head)).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    copy_in_order(theirs.backbone, ours.stages)
    copy_in_order(theirs.head.regression_head, ours.head.boxes)
    copy_in_order(theirs.head.classification_head, ours.head.classes)
    x = torch.randn(1, 3, 320, 320)
    expected = theirs.head(list(theirs.backbone(x).values()))
    boxes, classes = ours(x)
    for own, other in ((boxes, expected["bbox_regression"]), (classes, expected["cls_logits"])):
        assert own.shape == other.shape
        assert (own - other).abs().max().item() <= 1e-4 * other.abs().max().item()
