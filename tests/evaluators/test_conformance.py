"""The conformance suite of evaluators, and what training promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from nas.evaluators import EVALUATORS, zero_cost
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.networks.network import build, canonical, totals, trace
from nas.spaces.trainings import FinalTraining, Proxy, SupernetTraining
from nas.spaces.yaml_format import load_space, parse_space
from nas.training.loop import Recipe, TrainingError, recalibrate, train
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter

DATA: dict[str, Any] = {
    "resolution": 32,
    "stages": [
        {"block": "conv", "out_channels": 16, "stride": 2},
        {"block": "mbconv", "depth": 2, "out_channels": 24, "stride": 2},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}
SPACE = parse_space("small", DATA, "small.yaml")
ARCH = SPACE.decode({})


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


def table_of_arch(setup: EvaluatorContext) -> EvaluatorContext:
    """A table that holds one architecture, with two seeds."""
    path = setup.folder / "table.csv"
    path.write_text(f"architecture,accuracy_seed0,accuracy_seed1\n{canonical(ARCH).digest},0.5,0.625\n")
    return replace(setup, source=path)


def short_supernet(setup: EvaluatorContext) -> EvaluatorContext:
    space: Any = setup.space
    return replace(setup, space=replace(space, supernet=SupernetTraining(epochs=1)))


WAYS: dict[str, Callable[[EvaluatorContext], EvaluatorContext]] = {"tabular": table_of_arch, "supernet": short_supernet}
"""What an evaluator needs beside a plain Setup."""


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluator_repeats_itself_and_leaves_random_state_alone(
    name: str, task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_cost, "REFERENCE", 4)
    space = replace(SPACE, proxy=Proxy(resolution=8, epochs=2, images=300))
    setup = EvaluatorContext(task, space, tmp_path, reporter=Reporter(quiet=True))
    if name in WAYS:
        setup = WAYS[name](setup)
    before = torch.random.get_rng_state()
    evaluator = EVALUATORS[name](setup)
    first = list(evaluator.evaluate(ARCH, seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert list(evaluator.evaluate(ARCH, seed=3)) == first
    assert list(EVALUATORS[name](setup).evaluate(ARCH, seed=3)) == first
    assert (list(evaluator.evaluate(ARCH, seed=4)) == first) == getattr(evaluator, "deterministic", False)
    assert first
    assert all(type(accuracy) is float and 0 <= accuracy <= 1 for accuracy in first)
    settings = json.loads(json.dumps(evaluator.settings))
    assert settings == evaluator.settings
    assert settings["evaluator"] == name


def test_proxy_training_yields_each_epoch(task: Classification, tmp_path: Path) -> None:
    space = replace(SPACE, proxy=Proxy(resolution=8, epochs=2, images=300))
    evaluator = EVALUATORS["proxy_training"](EvaluatorContext(task, space, tmp_path))
    assert len(list(evaluator.evaluate(ARCH, seed=3))) == 2
    assert evaluator.settings["resolution"] == 8
    assert evaluator.settings["train_images"] == 300


def test_the_reference_of_a_score_is_kept_with_the_run(
    task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_cost, "REFERENCE", 4)
    space = load_space("mobile").for_classes(10)
    setup = EvaluatorContext(task, space, tmp_path, reporter=Reporter(quiet=True))
    (first,) = EVALUATORS["macs"](setup).evaluate(space.decode(space.sample(Random(5))), 0)
    assert 0 < first < 1
    kept = tmp_path / "macs" / "reference.json"
    written = json.loads(kept.read_text())
    assert len(set(written["scores"])) == 4
    kept.write_text(json.dumps({**written, "scores": [1.0]}))
    assert EVALUATORS["macs"](setup).settings["value"].startswith("place of the score among 1 random")
    kept.write_text("{")
    EVALUATORS["macs"](setup)
    assert json.loads(kept.read_text()) == written
    EVALUATORS["macs"](replace(setup, space=replace(space, resolution=(96,))))
    assert json.loads(kept.read_text())["identity"] != written["identity"]


def test_the_evaluators_rank_as_their_scores_do(task: Classification, tmp_path: Path) -> None:
    space = load_space("mobile").for_classes(10)
    evaluator = EVALUATORS["params"](EvaluatorContext(task, space, tmp_path, reporter=Reporter(quiet=True)))
    archs = [space.decode(space.sample(Random(seed))) for seed in range(20)]
    places = [list(evaluator.evaluate(arch, 0))[-1] for arch in archs]
    sizes = [totals(trace(arch)).params for arch in archs]
    assert sorted(range(20), key=places.__getitem__) == sorted(range(20), key=sizes.__getitem__)


def test_training_learns_digits(task: Classification) -> None:
    torch.manual_seed(0)
    model = build(ARCH)
    sets = task.train_set(16), task.validation_set(16)
    *_, accuracy = train(model, task, *sets, Recipe(epochs=4), seed=0)
    assert accuracy > 0.6
    assert task.evaluate(model, task.test_set(16), torch.device("cpu")).metric_value > 0.6


def test_a_loss_that_is_not_finite_ends_the_training(task: Classification) -> None:
    model = build(ARCH)
    with torch.no_grad():
        model.head.linear.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingError, match="the loss is nan in epoch 0"):
        list(train(model, task, task.train_set(8, 100), task.validation_set(8), Recipe(epochs=1), seed=0))


def test_recalibration_takes_the_mean_over_batches(task: Classification) -> None:
    torch.manual_seed(0)
    model = build(ARCH)
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    loader = DataLoader(task.train_set(8, 64), 32)
    recalibrate(model, loader, torch.device("cpu"))
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 2
    assert not torch.allclose(norm.running_mean, torch.zeros(16))  # type: ignore[arg-type]


def test_learned_groups_are_condensed_and_penalised_while_they_train(task: Classification) -> None:
    from nas.networks.condensenet import group_lasso, learned_groups

    stages = [{"block": "conv", "out_channels": 16}, {"block": "condense", "growth_rate": 16, "depth": 2}]
    arch = parse_space("condense", {**DATA, "stages": stages}, "condense.yaml").decode({})
    penalties = {}
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        model = build(arch)
        before = group_lasso(model).item()
        recipe = Recipe(epochs=1, group_lasso=weight)
        list(train(model, task, task.train_set(8, 200), task.validation_set(8), recipe, seed=0))
        penalties[weight] = group_lasso(model).item()
        for layer in learned_groups(model):
            assert layer.mask.mean().item() == pytest.approx(1 / 4)
    assert before > 0
    assert penalties[0.1] <= penalties[0.0]


def test_candidates_can_be_trained_with_another_recipe_and_are_by_default_as_ever(task: Classification) -> None:
    space = replace(parse_space("small", DATA, "small.yaml"), proxy=Proxy(8, 2, 100))
    context = EvaluatorContext(task, space, Path())
    other = ProxyTraining(context, recipe=Recipe(30, ema_share=0.2, learning_rate=0.01))
    assert ProxyTraining(context).settings.items() >= Recipe(2).to_dict().items()
    for evaluator, epochs in ((other, 2), (other.longer(3), 6)):
        assert evaluator.settings.items() >= Recipe(epochs, ema_share=0.2, learning_rate=0.01).to_dict().items()
    arch = space.decode({})
    assert list(other.evaluate(arch, 0)) != list(ProxyTraining(context).evaluate(arch, 0))


def test_the_winner_is_trained_up_to_its_own_resolution() -> None:
    from nas.searching.winner_training import phases

    found = phases(Proxy(32, 4), FinalTraining(epochs=8, images=500), 224)
    assert [phase.resolution for phase in found] == [32, 64, 128, 224]
    assert [phase.recipe.epochs for phase in found] == [8, 4, 2, 1]
    assert [phase.images for phase in found] == [24500, 6125, 1531, 500]
    assert [phase.resolution for phase in phases(Proxy(64, 4), FinalTraining(), 32)] == [32]
