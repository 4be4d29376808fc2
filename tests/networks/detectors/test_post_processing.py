"""Post-processing: anchors equal to their sources, suppression equal to the greedy one, the same in every runtime."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.architecture import Architecture, BlockSpec
from nas.devices.runtimes import RUNTIMES, computes, is_exact, make_runtime, selects_boxes
from nas.errors import DeviceError, ExportError, SpaceError
from nas.latency.profiler import LayerGraph, profile, table_header
from nas.latency.rows import read_row, row_to_dict
from nas.latency.table import LatencyTable
from nas.networks.blocks.anchors import default_boxes, octave_anchors
from nas.networks.blocks.select_boxes import SelectBoxes, decoded, kept_boxes
from nas.networks.detectors.export import check_same
from nas.networks.detectors.post_processing import is_detector, post_layer, post_of, with_post_processing
from nas.networks.export import export_folder
from nas.networks.exported_folder import load_exported
from nas.networks.network import build, trace
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_architecture, parse_space
from nas.utils.reporting import Reporter
from tests.helpers.small_detector import SMALL

CODINGS = ("efficientdet", "ssd", "distances")


def small_space() -> Space:
    return parse_space("small", SMALL, "small.yaml")


def small(head: str = "efficientdet_head") -> Architecture:
    arch = small_space().decode(small_space().sample(random.Random(3)))
    return Architecture(arch.resolution, arch.stages, BlockSpec.of(head, {"num_classes": 3}), arch.taps, arch.neck)


def corners(anchors: Tensor) -> Tensor:
    return torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1)


def test_the_anchors_of_efficientdet_are_those_of_effdet() -> None:
    effdet = pytest.importorskip("effdet", reason="effdet is in the test extra")
    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    expected = effdet.anchors.Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    sizes = [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    torch.testing.assert_close(corners(octave_anchors(sizes, (512, 512), 9)), expected, rtol=0, atol=1e-3)


def test_the_default_boxes_of_ssdlite_are_those_of_torchvision() -> None:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes = [20, 10, 5, 3, 2, 1]
    images = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    expected = generator(images, [torch.zeros(1, 1, size, size) for size in sizes])[0]
    own = default_boxes([(size, size) for size in sizes], (320, 320), [6] * 6)
    torch.testing.assert_close(corners(own), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["pelee_ssd_voc", "dsod300_k48_voc", "mobilenet_v2_ssdlite_c81_r320"])
def test_there_is_an_anchor_for_each_prediction(name: str) -> None:
    arch = load_architecture(name)
    post, sizes = post_of(arch)
    head: Any = build(arch).head
    anchors = head.anchors(sizes, arch.input_shape[1:])
    assert anchors.shape == (post.in_shape[0][0], 4)  # type: ignore[index]
    assert (anchors > 0).all() and (anchors[:, :2] < arch.resolution).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(1, 3), st.sampled_from([0.3, 0.5, 0.7]))
def test_cluster_nms_keeps_what_greedy_suppression_keeps(seed: int, count: int, classes: int, overlap: float) -> None:
    from torchvision.ops import batched_nms

    generator = torch.Generator().manual_seed(seed)
    first, size = torch.rand(count, 2, generator=generator) * 100, torch.rand(count, 2, generator=generator) * 80 + 1
    boxes, labels = torch.cat([first, first + size], 1), torch.randint(0, classes, (count,), generator=generator)
    after = torch.ones(count, count).tril(-1)
    keep = kept_boxes(boxes[None], labels[None], after, overlap, steps=count)[0].bool()
    greedy = batched_nms(boxes, -torch.arange(count).float(), labels, overlap)
    assert keep.nonzero().flatten().tolist() == sorted(greedy.tolist())


@pytest.mark.parametrize("coding", CODINGS)
def test_a_box_on_its_anchor_is_decoded_there(coding: str) -> None:
    anchor = torch.tensor([[50.0, 40.0, 20.0, 10.0]])
    if coding == "distances":
        found = decoded(torch.tensor([[1.0, 2.0, 0.5, 1.0]]), anchor, coding)
        assert found.tolist() == [[30.0, 20.0, 60.0, 50.0]]
        return
    assert decoded(torch.zeros(1, 4), anchor, coding).tolist() == [[40.0, 35.0, 60.0, 45.0]]
    shift = torch.tensor([[0.0, 0.5, 0.0, 0.0]]) if coding == "efficientdet" else torch.tensor([[5.0, 0.0, 0.0, 0.0]])
    assert decoded(shift, anchor, coding)[0, 0].item() == pytest.approx(50.0)


def selection(coding: str, boxes: int = 400, classes: int = 4) -> tuple[SelectBoxes, list[Tensor]]:
    torch.manual_seed(0)
    select = SelectBoxes((boxes, boxes), coding=coding).eval()  # type: ignore[arg-type]
    anchors = torch.cat([torch.rand(boxes, 2) * 100, torch.rand(boxes, 2) * 20 + 5], 1)
    select.place(anchors, (100, 100))
    return select, [torch.randn(1, boxes, 4) * 0.3 + 0.5, 2 * torch.randn(1, boxes, classes)]


@pytest.mark.parametrize("coding", CODINGS)
def test_the_selected_boxes_are_sorted_inside_the_image_and_do_not_overlap(coding: str) -> None:
    select, outputs = selection(coding)
    boxes, scores, classes, count = select(outputs)
    assert boxes.shape == (1, 100, 4) and scores.shape == classes.shape == (1, 100)
    assert (scores[0].diff() <= 0).all() and scores.min() >= 0 and scores.max() <= 1
    assert boxes.min() >= 0 and boxes.max() <= 100
    number = int(count)
    kept = kept_boxes(boxes[:, :number], classes[:, :number], torch.ones(number, number).tril(-1), 0.5, number)
    assert kept.all()
    assert classes.max() < (3 if coding == "ssd" else 4), "the background is no class"


RUNNING = [
    name for name in RUNTIMES if computes(name) and is_exact(name) and selects_boxes(name) and "cuda" not in name
]


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("coding", CODINGS)
def test_every_runtime_selects_the_same_boxes(name: str, coding: str, tmp_path: Path) -> None:
    try:
        runtime = make_runtime(name)
    except DeviceError as error:
        pytest.skip(str(error))
    select, outputs = selection(coding)
    path = tmp_path / f"select{runtime.suffix}"
    runtime.export(LayerGraph(select, True, 4).eval(), outputs, path)
    found = [torch.as_tensor(np.array(each)) for each in runtime.load(str(path), [o.numpy() for o in outputs], 1)()]
    check_same(select(outputs), tuple(found), 100, path)


def test_other_boxes_are_noticed() -> None:
    select, outputs = selection("ssd")
    boxes, scores, classes, count = select(outputs)
    with pytest.raises(ExportError, match="its scores differ"):
        check_same((boxes, scores, classes, count), (boxes, scores + 0.01, classes, count), 100, Path("x.onnx"))
    with pytest.raises(ExportError, match="only 0% of its boxes"):
        check_same((boxes, scores, classes, count), (boxes + 5, scores, classes, count), 100, Path("x.onnx"))


def test_another_number_of_almost_equal_scores_is_no_difference() -> None:
    """Before a training, rounding decides which boxes suppress which."""
    boxes, classes, count = torch.zeros(1, 4, 4), torch.zeros(1, 4), torch.tensor([3])
    scores, found = torch.tensor([[0.0101, 0.01, 0.01, 0.0]]), torch.tensor([[0.0101, 0.01, 0.0, 0.0]])
    check_same((boxes, scores, classes, count), (boxes, found, classes, count - 1), 100, Path("x.onnx"))
    with pytest.raises(ExportError, match="its scores differ"):
        check_same((boxes, scores, classes, count), (boxes, 0 * found, classes, 0 * count), 100, Path("x.onnx"))


@pytest.mark.parametrize("head", ["efficientdet_head", "ssd_head", "gfl_head"])
def test_a_detector_is_exported_with_and_without_post_processing(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arch = small(head)
    card = export_folder(arch, build(arch), tmp_path / "m", "onnxruntime", {})
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "card.json", "detector.onnx", "model.onnx", "model.py", "model.safetensors",
    ]  # fmt: skip
    assert card["select_boxes"]["outputs"] == ["boxes", "scores", "classes", "count"]
    program = "import model; print([tuple(o.shape) for o in model.load_detector()(model.check_input())])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "m", capture_output=True, text=True, check=True
    )
    count = min(100, card["select_boxes"]["predictions"])
    assert done.stdout == f"[(1, {count}, 4), (1, {count}), (1, {count}), (1,)]\n"
    assert is_detector(load_exported(tmp_path / "m")[0])


def test_the_table_has_a_row_for_post_processing_and_the_latency_includes_it(tmp_path: Path) -> None:
    space = small_space()
    table = LatencyTable.open(tmp_path / "null.jsonl", table_header("null", 1))
    profile(space, table, Reporter(quiet=True))
    rows = [json.loads(line) for line in table.path.read_text().splitlines()[1:]]
    assert {row["coding"] for row in rows if row.get("block") == "select_boxes"} == {"efficientdet", "ssd"}
    predictor = table.predictor(space.key)
    arch = space.decode(space.sample(random.Random(3)))
    assert 0 < predictor.post_ms(arch) < predictor.predict(arch)
    layers = sum(predictor.calibration.latency_ms(table.features_alone(layer, True)) for layer in trace(arch))
    assert predictor.predict(arch) == pytest.approx(layers + predictor.post_ms(arch))
    again = LatencyTable.open(table.path)
    assert again.predictor(space.key).predict(arch) == predictor.predict(arch)


def test_a_runtime_without_the_operators_has_the_latency_of_the_network_alone() -> None:
    table = LatencyTable(Path("x"), {**table_header("null", 1), "runtime": "ncnn"})
    layers = trace(small())
    assert table.measured_layers(layers) == list(layers)
    assert table.predictor("s").post_ms(small()) == 0.0


def test_a_row_of_post_processing_is_read_as_it_was_written() -> None:
    post = post_layer(trace(small())[-1])
    assert post is not None
    key, samples, _ = read_row(row_to_dict(post, [(1.0, 2.0)], {}))
    assert key == (post.spec, post.in_shape) and samples == [(1.0, 2.0)]


def test_a_classifier_has_no_post_processing() -> None:
    arch = load_architecture("mobilenet_v2_0.35")
    assert not is_detector(arch) and post_layer(trace(arch)[-1]) is None
    with pytest.raises(SpaceError, match="head: block: has no post-processing: it predicts no boxes: 'classifier'"):
        with_post_processing(arch, build(arch))
