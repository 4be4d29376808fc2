"""The reference networks: parameters and multiply-accumulates equal to independent implementations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nas.networks.network import output_shapes, trace
from nas.spaces.yaml_format import load_architecture, load_space, space_names, space_path
from tests.helpers.reference_facts import foreground

FACTS = Path(__file__).parents[3] / "shared" / "facts"
REFERENCE, REFERENCE_2026 = FACTS / "reference_models.json", FACTS / "reference_models_2026.json"

GOLDEN = {
    "efficientnet_b0": (5_288_548, 385_814_752),
    "efficientnet_b1": (7_794_184, 686_802_832),
    "efficientnet_b2": (9_109_994, 993_561_872),
    "efficientnet_b3": (12_233_232, 1_827_141_392),
    "efficientnet_b4": (19_341_616, 4_393_771_024),
    "efficientnet_b5": (30_389_784, 10_266_384_752),
    "efficientnet_b6": (43_040_704, 19_067_593_536),
    "efficientnet_b7": (66_347_960, 37_745_884_192),
    "efficientvit_b0": (3_410_008, 100_157_952),
    "efficientvit_b1": (9_102_024, 518_963_712),
    "ese_vovnet39b": (24_568_936, 7_074_193_408),
    "lcnet_0.5": (1_880_856, 44_731_008),
    "lcnet_0.75": (2_358_288, 94_786_496),
    "lcnet_1.0": (2_953_800, 155_700_480),
    "mnasnet_a1_0.35": (1_747_018, 61_681_920),
    "mnasnet_a1_0.5": (2_082_006, 103_162_992),
    "mnasnet_a1_0.75": (2_912_278, 223_448_480),
    "mnasnet_a1_1.0": (3_887_038, 311_579_072),
    "mnasnet_a1_1.0_r192": (3_887_038, 229_322_144),
    "mnasnet_a1_1.4": (6_105_992, 586_317_952),
    "mnasnet_b1_0.5": (2_218_512, 104_455_968),
    "mnasnet_b1_0.75": (3_170_208, 215_493_104),
    "mnasnet_b1_1.0": (4_383_312, 314_415_872),
    "mnasnet_b1_1.3": (6_282_256, 526_362_432),
    "mnasnet_b1_1.4": (7_115_728, 588_799_408),
    "mnasnet_small": (2_030_264, 68_339_184),
    "mobilenet_v1_0.25": (470_072, 41_030_272),
    "mobilenet_v1_0.5": (1_331_592, 149_497_088),
    "mobilenet_v1_0.75": (2_585_560, 325_400_448),
    "mobilenet_v1_1.0": (4_231_976, 568_740_352),
    "mobilenet_v2_0.35": (1_677_128, 59_285_808),
    "mobilenet_v2_0.5": (1_968_680, 97_131_840),
    "mobilenet_v2_0.75": (2_636_424, 209_069_792),
    "mobilenet_v2_1.0": (3_504_872, 300_774_272),
    "mobilenet_v2_1.4": (6_108_776, 582_195_824),
    "mobilenet_v3_large_0.75": (3_993_528, 154_560_624),
    "mobilenet_v3_large_1.0": (5_483_032, 216_589_760),
    "mobilenet_v3_large_minimalistic": (3_924_288, 209_136_704),
    "mobilenet_v3_small_1.0": (2_542_856, 56_510_400),
    "mobilenet_v3_small_minimalistic": (2_044_736, 52_288_448),
    "mobilenet_v4_conv_medium": (9_715_512, 1_080_244_224),
    "mobilenet_v4_hybrid_medium": (11_074_648, 1_271_183_360),
    "mobilenet_v4_conv_small": (3_774_024, 186_005_568),
    "mobilenet_v4_conv_small_0.35": (1_905_384, 47_723_040),
    "mobilenet_v4_conv_small_0.5": (2_238_952, 64_741_408),
    "regnet_x_002": (2_684_792, 199_039_872),
    "regnet_x_004": (5_157_512, 397_677_568),
    "regnet_x_008": (7_259_656, 799_699_712),
    "regnet_y_002": (3_162_996, 199_514_080),
    "regnet_y_004": (4_344_144, 401_842_848),
    "regnet_y_008": (6_263_168, 797_176_832),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet20": (272_474, 40_813_184),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "shufflenet_v1_g1_1.0": (1_531_936, 143_078_976),
    "shufflenet_v1_g2_1.0": (1_733_848, 140_836_512),
    "shufflenet_v1_g3_0.25": (305_902, 11_009_808),
    "shufflenet_v1_g3_0.5": (717_324, 37_589_856),
    "shufflenet_v1_g3_0.75": (1_238_266, 79_740_144),
    "shufflenet_v1_g3_1.0": (1_865_728, 137_460_672),
    "shufflenet_v1_g3_1.5": (3_441_168, 292_443_552),
    "shufflenet_v1_g3_2.0": (5_449_776, 524_045_184),
    "shufflenet_v1_g4_1.0": (1_968_344, 134_339_776),
    "shufflenet_v1_g8_0.5": (1_010_448, 40_469_760),
    "shufflenet_v1_g8_1.0": (2_434_768, 138_365_952),
    "shufflenet_v1_g8_1.5": (4_268_952, 290_188_800),
    "shufflenet_v1_g8_2.0": (6_521_232, 521_942_016),
    "shufflenet_v2_0.5": (1_365_792, 40_476_448),
    "shufflenet_v2_0.5_torchvision": (1_366_792, 40_476_448),
    "shufflenet_v2_1.0": (2_278_760, 145_814_296),
    "shufflenet_v2_1.0_torchvision": (2_278_604, 144_907_992),
    "shufflenet_v2_1.5": (3_506_720, 298_970_656),
    "shufflenet_v2_1.5_torchvision": (3_503_624, 295_759_392),
    "shufflenet_v2_2.0": (7_402_600, 590_783_000),
    "shufflenet_v2_2.0_torchvision": (7_393_996, 583_253_464),
    "vovnet27_slim": (3_525_736, 2_176_695_296),
    "vovnet27_slim_paper_stem": (3_525_736, 2_870_328_320),
    "vovnet39": (22_600_296, 7_072_227_328),
    "vovnet39_paper_stem": (22_600_296, 7_765_860_352),
    "vovnet57": (36_640_296, 8_930_144_256),
    "vovnet57_paper_stem": (36_640_296, 9_623_777_280),
}
"""Name: (parameters, MACs) at the file's resolution and 1000 classes."""


def counts(name: str, resolution: int | None = None, classes: int | None = None) -> tuple[int, int]:
    arch = load_architecture(name)
    if classes is not None:
        arch = load_space(name).for_classes(classes).decode({})
    layers = trace(arch.at(resolution) if resolution else arch)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


def attention_macs(name: str, resolution: int) -> int:
    """Return the MACs of the products of attention, which the facts leave out.

    Linear attention has 2 d + 1 for each element, multi-query attention 2 d for each query and key.
    """
    found = 0
    for layer in trace(load_architecture(name).at(resolution)):
        if layer.spec.op == "multi_query_attention":
            size, reduction = output_shapes(layer)[0][1], int(layer.spec.kwargs.get("reduction", 1))
            found += 4 * size**2 * math.ceil(size / reduction) ** 2 * 2 * 64
        if layer.spec.op == "linear_attention" and layer.in_shape == layer.out_shape:
            elements = 2 * math.prod(output_shapes(layer)[0])  # two scales
            found += elements * (2 * int(dict(layer.spec.args).get("head_channels", 16)) + 1)
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_counts_are_the_golden_ones(name: str) -> None:
    assert counts(name) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_header_tells_the_counts(name: str) -> None:
    path = space_path(name)
    header = path.read_text(encoding="utf-8").partition("about:")[0].replace("\n# ", " ")
    params, macs = GOLDEN[name]
    assert f"{params:,} parameters, {macs:,} MACs" in header


def test_other_resolutions_and_classes() -> None:
    assert counts("efficientnet_b1", resolution=224) == (7_794_184, 569_651_680)
    assert counts("efficientnet_b7", resolution=224) == (66_347_960, 5_169_865_152)
    assert counts("mobilenet_v2_1.0", classes=10) == (3_504_872 - 990 * 1281, 300_774_272 - 990 * 1280)


@pytest.mark.parametrize("path", [REFERENCE, REFERENCE_2026], ids=lambda path: path.stem)
def test_reference_models_are_equal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not path.is_file():
        pytest.skip(f"needs the independent counts in {path}")
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    ours = [model for model in models if model["id"] in space_names()]
    found, expected = {}, {}
    for model in ours:
        classes = foreground(model) if model["num_classes"] > 1 else None
        key = f"{model['id']} of {'timm' if 'timm' in model else 'others'}"
        params, macs = counts(model["id"], model["input"][2], classes)
        found[key] = (params, macs - attention_macs(model["id"], model["input"][2]))
        expected[key] = (model["params"], model["macs"])
    with capsys.disabled():
        equal = sum(found[key] == expected[key] for key in found)
        print(f"\n{path.stem}: {equal} of {len(expected)} reference networks equal in parameters and MACs")
    assert found == expected
