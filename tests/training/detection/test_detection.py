"""The detection task: assignments, losses, augmentation, and a training from the command line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.architecture import InputFormat
from nas.cli.main import main
from nas.errors import DataError, SpaceError, UsageError
from nas.networks.blocks.anchors import octave_anchors, points
from nas.networks.blocks.select_boxes import decoded
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture, parse_space
from nas.training.detection.assignment import (
    BACKGROUND,
    CLOSE,
    IGNORED,
    MATCHED,
    assign_by_overlap,
    assign_dynamically,
    corners_of,
    pairwise,
)
from nas.training.detection.boxes import Boxes, BoxSplit
from nas.training.detection.dataset import BoxDataset, Placement, Target, augmentation
from nas.training.detection.detection import Detection
from nas.training.detection.losses import LOSSES, encoded
from nas.training.tasks.base import for_task, make_loader
from nas.training.tasks.registry import load_task

SIZES, IMAGE = [(8, 8), (4, 4)], (64, 64)
SMALL: dict[str, Any] = {
    "resolution": 64,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": "mbconv", "out_channels": 12, "stride": 2},
        {"block": "mbconv", "out_channels": 16, "stride": 2, "tap": True},
        {"block": "mbconv", "out_channels": 24, "stride": 2, "tap": True},
    ],
    "neck": [{"block": "bifpn", "out_channels": 16, "levels": 3}],
    "head": {"block": "efficientdet_head", "num_layers": 1, "num_classes": 3},
}


Box = tuple[float, float, float, float]


def target(*corners: Box, crowd: Tensor | None = None) -> Target:
    boxes = torch.tensor(corners).reshape(-1, 4)
    return Target(boxes, torch.arange(len(boxes)) % 2, torch.zeros(0, 4) if crowd is None else crowd)


def write_small(folder: Path, head: str = "efficientdet_head") -> Path:
    path = folder / "small.yaml"
    path.write_text(json.dumps({**SMALL, "head": {"block": head, "num_classes": 3}}))
    return path


boxes = st.lists(
    st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(2, 14), st.floats(2, 14)).map(
        lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
    ),
    max_size=6,
)


@given(boxes)
@settings(max_examples=30, deadline=None)
def test_every_box_is_learned_and_boxes_far_away_are_background(
    corners: list[tuple[float, float, float, float]],
) -> None:
    anchors, wanted = octave_anchors(SIZES, IMAGE, 9), target(*corners)
    assigned = assign_by_overlap(anchors, wanted)
    learned = set(assigned.index[assigned.index >= 0].tolist())
    distinct = len({tuple(box) for box in corners})
    assert len(learned) >= min(1, distinct) and learned <= set(range(len(corners)))
    assert ((assigned.index >= IGNORED) & (assigned.index < max(1, len(corners)))).all()
    if not corners:
        assert (assigned.index == BACKGROUND).all()


def test_a_box_that_no_anchor_fits_is_learned_by_several_anchors() -> None:
    anchors = octave_anchors(SIZES, IMAGE, 9)
    small = target((30.0, 30.0, 35.0, 35.0))
    overlap = pairwise(corners_of(anchors), small.corners)[:, 0]
    assert overlap.max() < MATCHED
    learned = assign_by_overlap(anchors, small).index == 0
    assert learned.sum() > 1
    assert torch.equal(learned, overlap >= CLOSE * overlap.max())
    fitting = target(tuple(corners_of(anchors)[40].tolist()))
    overlap = pairwise(corners_of(anchors), fitting.corners)[:, 0]
    assert torch.equal(assign_by_overlap(anchors, fitting).index == 0, overlap >= MATCHED)


@given(boxes)
@settings(max_examples=30, deadline=None)
def test_the_dynamic_assignment_learns_the_boxes_around_points(
    corners: list[tuple[float, float, float, float]],
) -> None:
    grid, wanted = points(SIZES, IMAGE), target(*corners)
    torch.manual_seed(0)
    assigned = assign_dynamically(grid, torch.rand(len(grid), 4) * 2, torch.randn(len(grid), 2), wanted)
    assert ((assigned.quality >= 0) & (assigned.quality <= 1)).all()
    assert (assigned.index >= 0).any() == bool(corners)


def test_predictions_inside_a_crowd_learn_nothing() -> None:
    anchors = points(SIZES, IMAGE)
    crowd = torch.tensor([[0.0, 0.0, 32.0, 64.0]])
    assigned = assign_by_overlap(anchors, target(crowd=crowd))
    left = corners_of(anchors)[:, 2] <= 32
    assert (assigned.index[left] == IGNORED).all() and (assigned.index[~left] == BACKGROUND).all()


@pytest.mark.parametrize("coding", ["efficientdet", "ssd"])
def test_encoding_is_the_inverse_of_decoding(coding: str) -> None:
    anchors = octave_anchors(SIZES, IMAGE, 9)[:5]
    corners = torch.tensor([[3.0, 4.0, 20.0, 31.0]]).expand(5, 4)
    torch.testing.assert_close(decoded(encoded(corners, anchors, coding), anchors, coding), corners)


@pytest.mark.parametrize("coding", LOSSES)
def test_a_loss_is_finite_without_boxes_and_falls_when_the_boxes_are_right(coding: str) -> None:
    torch.manual_seed(0)
    anchors = points(SIZES, IMAGE) if coding == "distances" else octave_anchors(SIZES, IMAGE, 3)
    classes = 3 if coding == "ssd" else 2
    predicted = torch.full((2, len(anchors), 4), 0.5, requires_grad=True)
    logits = torch.full((2, len(anchors), classes), -2.0, requires_grad=True)
    empty = LOSSES[coding](predicted, logits, anchors, [target(), target()])
    empty.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(empty) and logits.grad is not None and torch.isfinite(logits.grad).all()
    wanted = [target((8.0, 8.0, 40.0, 40.0)), target()]
    optimizer = torch.optim.Adam([predicted, logits], 0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = LOSSES[coding](predicted, logits, anchors, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(50, 50), (50, 80), (80, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_are_placed_as_pixels_are(channels: int, size: tuple[int, int], fit: str) -> None:
    import numpy as np

    picture = np.zeros((40, 100, 3), np.uint8)
    picture[10:30, 20:60] = 255
    split = BoxSplit([picture], (Boxes.of([[20, 10, 60, 30]], [0]),), ((100, 40),))
    images = BoxDataset(split, size[0], None, None, fit, InputFormat(channels, Fraction(size[1], size[0])))
    image, found = images[0]
    assert image.shape == (channels, *size)
    inside = [round(each) for each in found.corners[0].tolist()]
    bright = (image.float().mean(0) > 160).nonzero()
    rows, columns = bright[:, 0], bright[:, 1]
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert all(abs(int(edge) - own) <= 1 for edge, own in zip(edges, inside, strict=True))
    original = Placement.of(100, 40, size, fit).original(found.corners)
    torch.testing.assert_close(original, torch.tensor([[20.0, 10.0, 60.0, 30.0]]))


def test_augmented_boxes_stay_in_the_image_and_keep_their_classes() -> None:
    task = Detection.load("digit_canvases")
    images = task.train_set(64)
    augment = augmentation((3, 64, 64), flip=True)
    torch.manual_seed(0)
    for index in range(40):
        image, found = augment(*images.with_augmentation(None)[index])
        assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
        assert found.corners.shape == (len(found.classes), 4)
        assert ((found.corners >= 0) & (found.corners <= 64)).all()
        assert set(found.classes.tolist()) <= set(images.target(index).classes.tolist())


@pytest.mark.parametrize("head", ["efficientdet_head", "ssd_head", "gfl_head"])
def test_a_batch_of_any_size_has_a_loss_with_gradients(head: str) -> None:
    task = load_task("digits", None, {"task": "detection"})
    arch = for_task(parse_space("small", {**SMALL, "head": {"block": head, "num_classes": 3}}, "").decode({}), task)
    torch.manual_seed(0)
    model = build(arch).train()
    batch = next(iter(make_loader(task, task.train_set(64), 4, shuffle=True)))
    for size in (None, 48):
        images, targets = task.move(batch, torch.device("cpu"), size)
        loss = task.loss(task.outputs(model, images), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    report = task.evaluate(model, task.validation_set(64), torch.device("cpu"))
    assert report.metric == "AP" and 0 <= report.metric_value < 0.2


def test_what_does_not_apply_to_detection_is_refused() -> None:
    with pytest.raises(UsageError, match="--class-weights: applies to classification only: 'balanced'"):
        Detection.load("digits", class_weights="balanced")
    with pytest.raises(UsageError, match="--fit: must be one of pad, stretch for detection"):
        Detection.load("digits", fit="crop")
    with pytest.raises(UsageError, match="unknown metric 'AP75'"):
        Detection.load("digits", metric="AP75")
    task = Detection.load("digits")
    with pytest.raises(SpaceError, match="must be the head of a detector: 'classifier'"):
        for_task(load_architecture("mobilenet_v2_0.35"), task)
    model = build(parse_space("small", SMALL, "").decode({}))
    with pytest.raises(DataError, match="'digit_canvases' has 10 classes, x has 3"):
        task.check_outputs(task.outputs(model, torch.zeros(1, 3, 64, 64)), "x")


def test_a_detector_is_trained_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", str(write_small(tmp_path)), "--task", "detection", "--resolution", "64", "--epochs", "1"]
    assert main([*command, "--images", "40", "--out", "run"]) == 0
    shown = capsys.readouterr()
    assert "metric        AP" in shown.out
    assert "training boxes by a half at 64 px" in shown.err
    result = json.loads(Path("run/result.json").read_text())
    assert result["metric"] == "AP" and 0 <= result["test_AP"] <= 1 and result["settings"]["task"] == "detection"
    assert abs(result["exported"]["AP"] - result["test_AP"]) <= 1e-4
    assert json.loads(Path("run/model/card.json").read_text())["exported"] == result["exported"]
    assert {path.name for path in Path("run/model").iterdir()} >= {"detector.onnx", "model.onnx"}
    assert {"precision_recall.png", "detections.png"} <= {path.name for path in Path("run").iterdir()}
    assert main([*command, "--images", "40", "--out", "run"]) == 0, "the same command returns the finished result"
    assert main(["train", "mobilenet_v2_0.35", "--task", "detection", "--out", "other"]) == 2
    assert main(["train", str(write_small(tmp_path)), "--out", "third"]) == 2
