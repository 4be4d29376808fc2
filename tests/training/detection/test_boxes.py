"""Splits by image: seeded, of the asked size, with all classes; the protocol of data sets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import DataError
from nas.training.detection.boxes import BoxData, Boxes, BoxSplit, describe_boxes, hold_out, hold_out_validation
from nas.training.tasks.base import TaskData

Classes = list[list[int]]


def split_of(classes: Classes, crowd: bool = False) -> BoxSplit:
    boxes = [Boxes.of([[0, 0, 4, 4]] * len(each), each, crowd=[crowd] * len(each)) for each in classes]
    return BoxSplit([str(index) for index in range(len(classes))], tuple(boxes), ((8, 8),) * len(classes))


def test_boxes_are_typed_arrays() -> None:
    boxes = Boxes.of([[0, 0, 4, 2], [1, 1, 2, 2]], [0, 3])
    assert [each.dtype.name for each in (boxes.corners, boxes.classes, boxes.crowd, boxes.areas, boxes.ids)] == [
        "float32", "int64", "bool", "float32", "int64",
    ]  # fmt: skip
    assert boxes.areas.tolist() == [8, 1]
    assert len(boxes) == 2
    assert Boxes.of([], []).corners.shape == (0, 4)


def test_box_data_is_a_data_set_of_a_task() -> None:
    split = split_of([[0], [1], []])
    data: TaskData = BoxData("pets", ("cat", "dog"), (3, 7), split, split, split)
    assert len(data.train.images) == len(data.train) == 3
    assert data.folder is None


def test_take_keeps_images_boxes_and_sizes_together() -> None:
    part = split_of([[0], [1], [2, 2]]).take([2, 0])
    assert part.images == ["2", "0"]
    assert [each.classes.tolist() for each in part.boxes] == [[2, 2], [0]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=2, max_size=60), st.integers(0, 70))
def test_a_part_has_its_size_and_repeats_itself(classes: Classes, count: int) -> None:
    split = split_of(classes)
    part = split.part(count)
    assert len(part) == (count if 0 < count < len(split) else len(split))
    assert len(set(part.images)) == len(part)
    assert part.images == split_of(classes).part(count).images


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=2, max_size=60))
def test_holding_out_divides_the_images(classes: Classes) -> None:
    split = split_of(classes)
    rest, part = hold_out(split, 0.2)
    assert len(part) == -(-len(split) // 5)
    assert sorted([*rest.images, *part.images]) == sorted(split.images)


def test_every_class_is_in_a_part_that_is_large_enough() -> None:
    classes = [[index % 3] for index in range(90)] + [[3], [4, 0], []]
    part = split_of(classes).part(8)
    assert (part.class_counts(5) > 0).all()


def test_class_shares_are_kept() -> None:
    generator = np.random.default_rng(0)
    weights = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    classes = [generator.choice(5, generator.integers(0, 8), p=weights).tolist() for _ in range(2000)]
    split = split_of(classes)
    rest, part = hold_out(split, 0.2)
    shares = part.class_counts(5) / split.class_counts(5)
    assert (abs(shares - 0.2) < 0.03).all(), shares
    assert abs(part.negatives / split.negatives - 0.2) < 0.03
    assert rest.negatives + part.negatives == split.negatives


def test_the_only_image_of_a_class_stays_for_training_and_two_images_are_divided() -> None:
    classes = [[0]] * 30 + [[1], [2], [2]]
    rest, part = hold_out(split_of(classes), 0.2)
    assert rest.class_counts(3)[1] == 1
    assert rest.class_counts(3)[2] == part.class_counts(3)[2] == 1


def test_crowds_count_for_no_class() -> None:
    split = split_of([[0], [1]], crowd=True)
    assert split.class_counts(2).tolist() == [0, 0]
    assert split.negatives == 2


def test_validation_is_a_fifth_or_a_tenth() -> None:
    assert len(hold_out_validation(split_of([[0]] * 100))[1]) == 20
    assert len(hold_out_validation(split_of([[0]] * 5000))[1]) == 500


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError) as caught:
        hold_out(split_of([[0]]), 0.2, "pets")
    assert caught.value.where == "pets"


def test_a_data_set_is_described_in_one_line() -> None:
    split = split_of([[0], [1, 1], []])
    data = BoxData("pets", ("cat", "dog"), (3, 7), split, split, split)
    assert describe_boxes(data) == (
        "pets: 2 classes, 6 images, 2 of them without boxes, 6 boxes: 2 ('cat') to 4 ('dog') per class"
    )


def test_splits_do_not_depend_on_numpy_s_global_seed() -> None:
    split = split_of([[index % 4] for index in range(50)])
    seen = Counter()  # type: Counter[tuple[str, ...]]
    for seed in range(3):
        np.random.seed(seed)
        seen[tuple(split.part(10).images)] += 1
    assert len(seen) == 1
