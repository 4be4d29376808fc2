"""The metrics against scikit-learn, the weighted loss, the report by class and the messages about balance."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from nas.training.tasks.class_balance import report_balance
from nas.training.tasks.class_report import ClassReport, describe_worst
from nas.training.tasks.class_weights import balanced
from nas.training.tasks.classification import Classification, weighted_cross_entropy
from nas.training.tasks.metrics import METRICS
from nas.training.tasks.splits import ImageData, Split
from nas.utils.reporting import Reporter

SKLEARN = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "macro_f1": lambda true, predicted: f1_score(true, predicted, average="macro", zero_division=0),
}
LABEL = st.integers(0, 4)


def confusion_of(pairs: list[tuple[int, int]], classes: int = 5) -> Tensor:
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    for true, predicted in pairs:
        confusion[true, predicted] += 1
    return confusion


def report_of(*rows: list[int], metric: str = "accuracy") -> ClassReport:
    names = tuple("abcdefgh"[: len(rows)])
    return ClassReport(metric, names, torch.tensor(rows))


def data_of(train: str, validation: str, test: str) -> ImageData:
    """Return a data set without images, whose labels the letters give."""
    classes = tuple(sorted({*train, *validation, *test}))
    first, second, third = (
        Split([None] * len(text), tuple(map(classes.index, text))) for text in (train, validation, test)
    )
    return ImageData("letters", classes, first, second, third)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=30))
def test_a_metric_equals_that_of_scikit_learn(name: str, pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # y_pred contains classes not in y_true
        expected = SKLEARN[name](true, predicted)
    assert METRICS[name](confusion_of(pairs)) == pytest.approx(expected, abs=1e-12)


def test_a_constant_prediction_is_accurate_on_imbalanced_data_but_not_balanced() -> None:
    confusion = torch.tensor([[95, 0], [5, 0]])
    assert METRICS["accuracy"](confusion) == 0.95
    assert METRICS["balanced_accuracy"](confusion) == 0.5
    assert METRICS["macro_f1"](confusion) == pytest.approx(95 / 97.5 / 2)


@settings(max_examples=40)
@given(labels=st.lists(LABEL, min_size=1, max_size=30))
def test_balanced_weights_equal_those_of_scikit_learn(labels: list[int]) -> None:
    present = np.unique(labels)
    expected = dict(zip(present, compute_class_weight("balanced", classes=present, y=labels), strict=True))
    found = balanced(labels, 5)
    assert found == pytest.approx([expected.get(label, 0.0) for label in range(5)])
    assert sum(found[label] for label in labels) / len(labels) == pytest.approx(1.0)


def test_a_weighted_loss_is_the_weight_of_the_class_times_the_smoothed_loss() -> None:
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0.5, 3.0, 2.0])
    each = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    loss = weighted_cross_entropy(logits, labels, 0.1, weights)
    assert loss.item() == pytest.approx(((weights[labels] * each).sum() / weights[labels].sum()).item(), rel=1e-6)
    hard = weighted_cross_entropy(logits, labels, 0.0, weights)
    assert hard.item() == pytest.approx(F.cross_entropy(logits, labels, weights).item(), rel=1e-6)
    one_hot = F.one_hot(labels, 3).float()
    assert weighted_cross_entropy(logits, one_hot, 0.1, weights).item() == pytest.approx(loss.item(), rel=1e-6)
    even = weighted_cross_entropy(logits, labels, 0.1, torch.ones(3))
    assert even.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1).item(), rel=1e-6)


def test_the_loss_of_mixed_labels_mixes_the_weighted_losses() -> None:
    logits, weights = torch.randn(4, 2), torch.tensor([0.5, 10.0])
    first, second = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 0, 1, 0])
    mixed = 0.7 * F.one_hot(first, 2) + 0.3 * F.one_hot(second, 2)
    sums = [
        (weights[labels] * F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")).sum()
        for labels in (first, second)
    ]
    mean_by = 0.7 * weights[first].sum() + 0.3 * weights[second].sum()
    expected = (0.7 * sums[0] + 0.3 * sums[1]) / mean_by
    assert weighted_cross_entropy(logits, mixed, 0.1, weights).item() == pytest.approx(expected.item(), rel=1e-6)


def test_label_smoothing_keeps_the_label_of_a_frequent_class_despite_weights() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    weighted_cross_entropy(logits, torch.tensor([0]), 0.1, torch.tensor([0.5, 10.0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_a_task_counts_the_images_by_true_and_predicted_class(metric: str) -> None:
    images = [np.full((8, 8), value, np.uint8) for value in (0, 0, 0, 255, 0, 255)]
    split = Split(images, (0, 0, 0, 0, 1, 2))
    task = Classification(ImageData("shades", ("a", "b", "c"), split, split, split), metric)

    class Brightness(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.mean((1, 2, 3)) > 0
            return F.one_hot(2 * bright.long(), 3).float()

    report = task.evaluate(Brightness(), task.test_set(8), torch.device("cpu"))
    assert report.confusion.tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert report.metric_value == pytest.approx(
        {"accuracy": 4 / 6, "balanced_accuracy": 1.75 / 3, "macro_f1": (6 / 8 + 2 / 3) / 3}[metric]
    )
    assert report.accuracy == 4 / 6


def test_a_report_has_recall_precision_and_support_by_name() -> None:
    result = report_of([8, 2, 0], [3, 1, 0], [0, 0, 0], metric="balanced_accuracy").to_dict()
    assert result["test_accuracy"] == 9 / 14
    assert result["test_balanced_accuracy"] == pytest.approx((0.8 + 0.25) / 2)
    assert (result["metric"], result["test_images"]) == ("balanced_accuracy", 14)
    assert result["by_class"]["a"] == {"recall": 0.8, "precision": 8 / 11, "support": 10}
    assert result["by_class"]["c"] == {"recall": None, "precision": None, "support": 0}
    assert result["confusion"] == {"a": {"a": 8, "b": 2}, "b": {"a": 3, "b": 1}, "c": {}}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (([95, 0], [4, 1]), "'b' (1 of 5 found)"),
        (([95, 0], [2, 3]), ""),
        (([95, 0], [2, 0]), "'b' (0 of 2 found)"),
        (([95, 0], [1, 0]), ""),
        (([30, 40], [2, 0]), ""),
        (([95, 0], [0, 0]), ""),
        (([0, 95], [0, 5]), "'a' (0 of 95 found)"),
        (
            ([90, 0, 0, 0, 0], [5, 0, 0, 0, 0], [4, 0, 1, 0, 0], [9, 0, 0, 0, 0], [5, 0, 0, 0, 0]),
            "'b' (0 of 5 found), 'd' (0 of 9 found), 'e' (0 of 5 found) and 1 more",
        ),
    ],
)
def test_the_worst_classes_are_those_far_below_the_accuracy(rows: tuple[list[int], ...], expected: str) -> None:
    assert describe_worst(report_of(*rows).to_dict()) == expected


def test_the_worst_classes_of_an_older_result_are_unknown() -> None:
    assert describe_worst({"test_accuracy": 0.95}) == ""


@pytest.mark.parametrize(
    ("parts", "warning"),
    [
        (("a" * 19 + "b" * 5, "aabb", "aabb"), ""),
        (("a" * 120 + "b" * 6, "a" * 32 + "b" * 2, "a" * 38 + "b" * 2), "the class 'b' (10 of 200 images)"),
        (("ab" * 10, "a" * 20 + "b" * 4, "ab" * 10), "the class 'b' (4 of 24 validation images)"),
        (("ab" * 10, "ab" * 10, "aaaa"), "the class 'b' (0 of 4 test images)"),
        (("a" * 80 + "bc" * 10, "", ""), "the classes 'b' (10 of 100 images), 'c' (10 of 100 images)"),
    ],
)
def test_imbalanced_data_are_reported_only_for_the_accuracy(
    parts: tuple[str, str, str], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report_balance(data_of(*parts), "accuracy", Reporter(quiet=True))
    found = capsys.readouterr().err
    assert found == (f"warning: accuracy can hide {warning}; consider --metric balanced_accuracy\n" if warning else "")
    for metric in ("balanced_accuracy", "macro_f1"):
        report_balance(data_of(*parts), metric, Reporter(quiet=True))
        assert capsys.readouterr().err == ""


def test_classes_with_few_images_to_validate_or_test_on_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    report_balance(data_of("ab" * 10, "aaaaabb", "aaaaabbbbb"), "macro_f1", Reporter())
    assert capsys.readouterr().err == "few validation images: 'b' has 2; the results for them are uncertain\n"


@pytest.mark.filterwarnings("error")
def test_names_that_look_like_formulas_or_lack_a_glyph_are_drawn(tmp_path: Path) -> None:
    report = ClassReport("accuracy", ("$_$", "\u65e5\u672c"), torch.eye(2, dtype=torch.long))
    report.draw("net on $_$", tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


@pytest.mark.parametrize("classes", [2, 31])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    confusion = torch.eye(classes, dtype=torch.long) * 9
    confusion[0, -1], confusion[1, 1] = 5, 0
    report = ClassReport("accuracy", tuple(f"class {index}" for index in range(classes)), confusion)
    report.draw("title", tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert min(image.size) > 300


def test_the_settings_of_a_task_leave_out_the_defaults() -> None:
    data = data_of("ab", "ab", "ab")
    assert Classification(data).settings == {}
    assert Classification(data, "macro_f1", "balanced").settings == {"metric": "macro_f1", "class_weights": "balanced"}
