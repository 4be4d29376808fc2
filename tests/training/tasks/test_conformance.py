"""Every task: its loss falls, its metric is in [0, 1] and repeats itself, and all loops train with its targets."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architecture import Architecture
from nas.cli.main import main
from nas.errors import DataError, SpaceError, UsageError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.evaluators.zero_cost_scores import ZERO_COST, draw_batch, score
from nas.networks.network import build
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import parse_space
from nas.training.loop import Epoch, Watch, check_fit, train
from nas.training.recipe import Recipe
from nas.training.speed import measure_speed
from nas.training.stuck import constant_output, training_problem
from nas.training.tasks.base import Task, for_task, make_loader
from nas.training.tasks.metrics import named
from nas.training.tasks.registry import TASKS, load_task
from nas.utils.reporting import Reporter
from tests.helpers.box_task import BoxTask

CPU = torch.device("cpu")
EVERY: dict[str, Callable[..., Task]] = {**TASKS, "boxes": BoxTask.load}
DATA: dict[str, Any] = {
    "resolution": 16,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": "mbconv", "out_channels": [12, 16], "stride": 2, "kernel_size": [3, 5]},
    ],
    "head": {"block": "classifier"},
}
HEADS = {"detection": {"block": "efficientdet_head", "num_layers": 1}}
"""The heads of tasks that a classifier does not fit."""
RECIPE = Recipe(2, batch_size=32, first_size=0.5, ema_share=0.5)
"""It trains at two resolutions, so that tasks scale their targets with the images, and averages weights."""


@pytest.fixture(params=sorted(EVERY), scope="module")
def task(request: pytest.FixtureRequest) -> Task:
    return EVERY[request.param]("digits")


def data_for(task: Task) -> dict[str, Any]:
    return {**DATA, "head": HEADS.get(task.settings.get("task", ""), DATA["head"])}


def space_for(task: Task) -> Space:
    space = parse_space("small", data_for(task), "small.yaml")
    supernet = replace(space.supernet, epochs=1, batch_size=50, children=1, sandwich=True, distill=True)
    return for_task(replace(space, proxy=Proxy(16, 2, 100), supernet=supernet), task)


def smallest(space: Space) -> Architecture:
    return space.decode({key: values[0] for key, values in space.choices.items()})


def network(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return build(smallest(space_for(task)))


def test_the_loss_falls_on_eight_images(task: Task) -> None:
    model, images = network(task), task.validation_set(16)
    batch, targets = task.move(task.collate([images[index] for index in range(8)]), CPU)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = task.loss(task.outputs(model, batch), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_metric_is_a_share_and_a_seed_decides_it(task: Task) -> None:
    sets, found = (task.train_set(16, 200), task.validation_set(16, 100)), []
    for _ in range(2):
        model, curve = network(task), list[Epoch]()
        values = list(train(model, task, *sets, RECIPE, 1, watch=Watch(epoch=curve.append)))
        report = task.evaluate(model, sets[1], CPU)
        assert report.metric == task.metric
        assert 0 <= report.metric_value <= 1
        assert values[-1] == report.metric_value == curve[-1].value
        assert curve[-1].accuracy == report.accuracy
        found.append((values, [epoch.loss for epoch in curve]))
    assert found[0] == found[1]


def test_a_continued_training_repeats_the_values(task: Task, tmp_path: Path) -> None:
    sets, path = (task.train_set(16, 100), task.validation_set(16, 50)), tmp_path / "checkpoint.pt"
    values = list(train(network(task), task, *sets, RECIPE, 1, checkpoint=path))
    assert list(train(network(task), task, *sets, RECIPE, 1, checkpoint=path)) == values


def test_a_report_is_stored_and_drawn(task: Task, tmp_path: Path) -> None:
    report = task.evaluate(network(task), task.test_set(16), CPU)
    content = json.loads(json.dumps(report.to_dict()))
    assert content["metric"] == task.metric
    assert content.items() >= named("test", report.accuracy, task.metric, report.metric_value).items()
    report.warn(Reporter(quiet=True))
    report.draw("title", tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 0


def test_a_batch_on_a_device_has_the_asked_size(task: Task) -> None:
    loader = make_loader(task, task.train_set(16, 50), 20)
    sizes = [len(batch[0]) for batch in loader]
    images, targets = task.move(next(iter(loader)), CPU, 8)
    assert sizes == [20, 20, 10]
    assert images.shape == (20, 3, 8, 8)
    assert len(targets) == 20


def test_a_task_goes_to_other_processes(task: Task) -> None:
    copied: Task = pickle.loads(pickle.dumps(task))
    assert copied.settings == task.settings
    assert copied.train_set(8).digest == task.train_set(8).digest
    assert copied.renamed("other").data.name == "other"


def test_equal_outputs_teach_nothing(task: Task) -> None:
    model, images = network(task), task.validation_set(16, 50)
    assert constant_output(model, task, images, CPU) == ""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert "the same output for every image" in training_problem(model, task, images, [], CPU)
    assert 0 <= task.chance < 1


def test_outputs_imitate_themselves(task: Task) -> None:
    if not task.can_distill:
        pytest.skip("networks of this task have no teachers")
    images = task.move(task.collate([task.validation_set(16)[index] for index in range(4)]), CPU)[0]
    outputs = task.outputs(network(task), images)
    other = task.outputs(network(task), 255 - images)
    assert task.distillation(outputs, outputs, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert task.loss(outputs, task.soft_targets(outputs), 0.0) < task.loss(other, task.soft_targets(outputs), 0.0)


def test_a_head_without_outputs_for_the_task_is_refused(task: Task) -> None:
    backbone = parse_space("small", {**DATA, "head": {"block": "features"}}, "small.yaml")
    with pytest.raises(SpaceError, match=r"^head.*'features'"):
        for_task(backbone, task)
    with pytest.raises(SpaceError, match=r"^head.*'features'"):
        for_task(smallest(backbone), task)


def test_a_network_with_other_outputs_is_refused(task: Task) -> None:
    arch = smallest(space_for(task))
    with pytest.raises(DataError, match=r"^--data: .*the network has"):
        check_fit(build(arch.for_classes(task.num_classes + 1)), task, task.test_set(16), CPU)


def test_a_detector_is_no_classifier() -> None:
    boxes = torch.zeros(1, 9, 4)
    for outputs in ((boxes, boxes), boxes):
        with pytest.raises(DataError, match=r"^--data: 'digits' needs a classifier, the teacher has other outputs$"):
            load_task("digits", None, {}).check_outputs(outputs, "the teacher")


def test_evaluators_train_and_score_with_the_targets(task: Task, tmp_path: Path) -> None:
    space = space_for(task)
    context = EvaluatorContext(task, space, tmp_path, reporter=Reporter(quiet=True))
    arch = smallest(space)
    for evaluator in (ProxyTraining(context), SupernetEvaluator(context)):
        values = list(evaluator.evaluate(arch, 0))
        assert all(0 <= value <= 1 for value in values)
        assert values == list(evaluator.evaluate(arch, 0))
    batch = draw_batch(task, 16, 0)
    assert len(batch.items) == len(batch.images)
    scores = {name: score(name, arch, batch, 0) for name in ZERO_COST}
    assert scores == {name: score(name, arch, draw_batch(task, 16, 0), 0) for name in ZERO_COST}


def test_the_speed_of_a_training_is_measured(task: Task) -> None:
    arch = smallest(space_for(task))
    speed = measure_speed(arch, task, RECIPE, seconds=0.01)
    assert min(*speed.step_s.values(), speed.validation_s) > 0


def test_a_network_is_trained_fully(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.tasks.image_record.load_task", lambda data, root, settings: task)
    (tmp_path / "net.json").write_text(json.dumps(smallest(space_for(task)).to_dict()))
    out = tmp_path / "out"
    flags = ["--images", "100", "--epochs", "2", "--runtime", "null", "--out", str(out), "--quiet"]
    assert main(["train", str(tmp_path / "net.json"), *flags]) == 0
    result = json.loads((out / "result.json").read_text())
    assert 0 <= result[f"test_{task.metric}"] <= 1
    assert (f"validation_{task.metric}" in result) and ("test_accuracy" in result) == (task.metric == "accuracy")
    assert (out / "curve.png").is_file()


def test_a_teacher_is_refused_where_none_can_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = BoxTask.load("digits")
    monkeypatch.setattr("nas.training.tasks.image_record.load_task", lambda data, root, settings: task)
    (tmp_path / "net.json").write_text(json.dumps(smallest(space_for(task)).to_dict()))
    flags = ["--runtime", "null", "--out", str(tmp_path / "out"), "--quiet", "--teacher", str(tmp_path / "teacher")]
    assert main(["train", str(tmp_path / "net.json"), *flags]) == 2
    assert "--teacher: the task of 'digits' cannot learn from the outputs of a teacher" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_made_again_from_its_settings(name: str) -> None:
    task = load_task("digits", None, {"task": name})
    assert load_task("digits", None, task.settings).settings == task.settings


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UsageError, match="unknown task 'clasification'; did you mean 'classification'"):
        load_task("digits", None, {"task": "clasification"})
