from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from nas.networks.diagram import network_svg
from nas.networks.network import trace
from nas.spaces.yaml_format import load_architecture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0", "densenet67_dsod_backbone_k16", "squeezenet_1.1"])
def test_a_picture_is_xml_with_a_box_for_each_block(name: str) -> None:
    arch = load_architecture(name)
    root = ET.fromstring(network_svg(arch, f"<{name} & co>"))
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    layers = trace(arch)
    assert len(boxes) == len(layers)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    edges = [float(box.attrib["x"]) for box in boxes]
    assert edges == sorted(edges)
    assert all(float(box.attrib["x"]) + float(box.attrib["width"]) <= width for box in boxes)
    assert all(float(box.attrib["y"]) + float(box.attrib["height"]) <= height for box in boxes)
    assert len(list(root.iter(f"{SVG}path"))) == len(arch.stages) + 1
    colours = {layer.spec.op: box.attrib["fill"] for layer, box in zip(layers, boxes, strict=True)}
    assert len(set(colours.values())) == len(colours)


def test_wider_and_larger_maps_have_wider_and_higher_boxes() -> None:
    root = ET.fromstring(network_svg(load_architecture("mobilenet_v1_1.0"), "v1"))
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None][:-1]
    assert float(boxes[0].attrib["height"]) > float(boxes[-1].attrib["height"])
    assert float(boxes[0].attrib["width"]) < float(boxes[-1].attrib["width"])
