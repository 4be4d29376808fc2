"""Shared weights: a child computes what its own copy computes, and training children trains the bank."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml

from nas.architecture import Architecture
from nas.cli.main import main
from nas.errors import RunError, SpaceError, WeightsError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.supernet.evaluator import BANK, CARD, CHECKPOINT, SupernetEvaluator
from nas.evaluators.supernet.shared_weights import Supernet, load_bank, places, save_bank
from nas.evaluators.supernet.training import SubnetSampler, SupernetRecipe, train_supernet
from nas.networks.network import build, canonical, totals, trace
from nas.networks.pretrained import slice_parameter
from nas.searching.winner_training import first_weights
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy, SupernetTraining
from nas.spaces.yaml_format import load_space, parse_space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from tests.helpers.nas_process import kill_when, start_nas

DATA: dict[str, Any] = {
    "resolution": 16,
    "stages": [
        {"block": "conv", "out_channels": [8, 16], "kernel_size": [3, 5], "stride": 2},
        {
            "block": [{"op": "mbconv", "kernel_size": [3, 5], "expand_ratio": [1, 3]}, {"op": "shufflenet_v2"}],
            "depth": [1, 2],
            "out_channels": [24, 32],
            "stride": 2,
        },
    ],
    "head": {"block": "classifier", "num_classes": 10, "dropout": 0.0},
    "proxy": {"resolution": 16, "epochs": 2, "images": 300},
    "supernet": {"epochs": 2, "children": 1},
}
SPACE = parse_space("small", DATA, "small.yaml")


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


def some(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return [canonical(space.decode(space.sample(rng))) for _ in range(count)]


@pytest.mark.parametrize("name", ["cifar", "mobile", pytest.param("zoo", marks=pytest.mark.slow)])
def test_a_child_computes_what_its_copy_computes(name: str) -> None:
    supernet, x = Supernet(load_space(name)), torch.randn(2, 3, 32, 32)
    for arch in some(supernet.space, 3):
        child, copied = supernet.child(arch).eval(), supernet.extract(arch).eval()
        torch.testing.assert_close(child(x), copied(x))  # their weights differ in layout only


def test_slices_are_leading_channels_and_the_centre_of_the_kernel() -> None:
    supernet = Supernet(SPACE)
    place = next(name for name in supernet.names if name.startswith("stage0/layer0/conv/conv.0.weight"))
    whole = supernet.bank[supernet.names.index(place)]
    assert whole.shape == (16, 3, 5, 5)
    assert torch.equal(slice_parameter(whole, (8, 3, 1, 1)), whole[:8, :, 2:3, 2:3])


def test_a_step_of_a_child_gives_the_bank_the_gradients_of_its_copy() -> None:
    supernet, x = Supernet(SPACE).double(), torch.randn(4, 3, 16, 16).double()  # in 32 bits, rounding comes near 1e-4
    for arch in some(SPACE, 5):
        supernet.zero_grad(set_to_none=True)
        copied = supernet.extract(arch).double().train()
        copied(x).square().sum().backward()
        child = supernet.child(arch).double().train()
        for _ in range(2):  # gradients add up
            child.backward(child(x).square().sum())
        for name, place in places(arch, copied).items():
            own = copied.get_parameter(name)
            whole = supernet.whole(place, own.ndim)
            assert own.grad is not None
            assert whole.grad is not None
            torch.testing.assert_close(slice_parameter(whole.grad, own.shape), 2 * own.grad, rtol=1e-8, atol=1e-8)
            assert whole.grad.count_nonzero() <= own.numel()


def test_every_parameter_of_every_network_has_a_place_that_holds_it() -> None:
    supernet = Supernet(SPACE)
    for arch in some(SPACE, 40):
        network = supernet.extract(arch)
        found = places(arch, network)
        assert set(found) == {name for name, _ in network.named_parameters()}


def test_a_network_of_another_space_is_refused() -> None:
    other = load_space("cifar").decode(load_space("cifar").sample(random.Random(0)))
    for method in (Supernet(SPACE).child, Supernet(SPACE).extract):
        with pytest.raises(SpaceError, match="small"):
            method(other)


def test_only_what_a_step_used_gets_a_gradient(task: Classification) -> None:
    supernet = Supernet(SPACE)
    arch = next(arch for arch in some(SPACE, 50) if arch.stages[1][0].op == "mbconv")
    child, images = supernet.child(arch).train(), torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    child.backward(task.loss(task.outputs(child, images), torch.arange(4)))
    touched = {name.split("/")[2] for name, p in zip(supernet.names, supernet.bank, strict=True) if p.grad is not None}
    assert touched == {"conv", "mbconv", "classifier"}


def test_the_family_has_the_ends_of_the_space_and_leans_as_told() -> None:
    family = SubnetSampler.of(SPACE)
    macs = [totals(trace(arch)).macs for arch in some(SPACE, 200)]
    assert totals(trace(family.smallest)).macs <= min(macs)
    assert totals(trace(family.largest)).macs >= max(macs)
    rng = random.Random(0)
    leaning = {arch.stages[0] for arch in family.sample(20, rng, 1.0)}
    assert {spec.kwargs["out_channels"] for (spec,) in leaning} == {16}
    assert len({arch.digest for _ in range(50) for arch in family.sample(1, rng)}) > 10


def test_children_of_a_step_share_out_the_values_of_a_choice() -> None:
    family, rng = SubnetSampler.of(SPACE), random.Random(0)
    for _ in range(20):
        stems = [arch.stages[0][0].kwargs for arch in family.sample(2, rng)]
        assert {stem["out_channels"] for stem in stems} == {8, 16}
        assert {stem.get("kernel_size", 3) for stem in stems} == {3, 5}


@pytest.mark.parametrize(
    "settings", [{}, {"children": 2}, {"sandwich": True}, {"sandwich": True, "distill": True}, {"warmup_epochs": 2}]
)
def test_the_loss_falls_and_a_seed_decides_it(task: Classification, settings: dict[str, Any]) -> None:
    def trained(seed: int) -> tuple[list[float], Supernet]:
        torch.manual_seed(0)
        supernet = Supernet(SPACE)
        before = torch.random.get_rng_state()
        recipe = SupernetRecipe(SupernetTraining(epochs=5, batch_size=16, **settings))
        losses = list(train_supernet(supernet, task, task.train_set(8, 320), recipe, seed))
        assert torch.equal(before, torch.random.get_rng_state())
        return losses, supernet

    losses, supernet = trained(0)
    assert losses[-1] < losses[0]
    if settings:  # the seed's part is the same for all
        return
    (again, same), (others, _) = trained(0), trained(1)
    assert again == losses
    assert others != losses
    assert all(torch.equal(left, right) for left, right in zip(supernet.bank, same.bank, strict=True))


def test_a_loss_that_is_not_finite_ends_the_training(task: Classification) -> None:
    supernet = Supernet(SPACE)
    with torch.no_grad():
        supernet.bank[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="the supernet's loss is nan after 0 steps"):
        list(train_supernet(supernet, task, task.train_set(16, 100), SupernetRecipe(SupernetTraining(epochs=1)), 0))


def test_a_bank_is_stored_by_name(tmp_path: Path) -> None:
    left, right = Supernet(SPACE), Supernet(SPACE)
    save_bank(left, tmp_path / "a.safetensors")
    load_bank(right, tmp_path / "a.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(left.bank, right.bank, strict=True))
    with pytest.raises(WeightsError, match="another space than 'cifar'"):
        load_bank(Supernet(load_space("cifar")), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match=r"a\.safetensors: not the weights of a supernet"):
        load_bank(right, tmp_path / "a.safetensors")


def test_one_supernet_serves_later_searches(task: Classification, tmp_path: Path) -> None:
    first = SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path / "a"))
    archs = some(SPACE, 4)
    accuracies = [list(first.evaluate(arch, 0)) for arch in archs]
    assert all(len(curve) == 1 and 0 <= curve[0] <= 1 for curve in accuracies)
    assert sorted(path.name for path in (tmp_path / "a" / "supernet").iterdir()) == [CARD, BANK]
    for source in (tmp_path / "a", tmp_path / "a" / "supernet"):
        later = SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path / "b", source, seed=7))
        assert [list(later.evaluate(arch, 1)) for arch in archs] == accuracies
    assert not (tmp_path / "b").exists()


def test_a_supernet_that_does_not_fit_is_refused(task: Classification, tmp_path: Path) -> None:
    SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path))
    with pytest.raises(RunError, match=r"no supernet \(supernet.json\)"):
        SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path, tmp_path / "nothing"))
    others = {
        "space": EvaluatorContext(
            task, parse_space("small", {**DATA, "stages": DATA["stages"][:1]}, "x"), tmp_path, tmp_path
        ),
        "train_images": EvaluatorContext(task, replace(SPACE, proxy=Proxy(16, 2, 200)), tmp_path, tmp_path),
        "resolution": EvaluatorContext(task, replace(SPACE, proxy=Proxy(8, 2, 300)), tmp_path, tmp_path),
    }
    for key, setup in others.items():
        with pytest.raises(RunError, match="is for another search") as caught:
            SupernetEvaluator(setup)
        assert caught.value.key == key
    (tmp_path / "supernet" / CARD).write_text("{}")
    with pytest.raises(WeightsError, match=r"supernet\.json: not the card of a supernet"):
        SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path))


KILLED = """
import sys
from pathlib import Path
import torch
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.training.tasks.classification import Classification
from tests.helpers.nas_process import kill_when, start_nas
from tests.evaluators.supernet.test_supernet import LONG
torch.set_num_threads(1)
SupernetEvaluator(EvaluatorContext(Classification.load("digits"), LONG, Path(sys.argv[1])))
"""
LONG = replace(SPACE, supernet=SupernetTraining(epochs=5, children=1))


def test_a_killed_training_goes_on_to_the_same_losses_and_ranking(task: Classification, tmp_path: Path) -> None:
    checkpoint = tmp_path / "cut" / "supernet" / CHECKPOINT
    kill_when(start_nas([str(tmp_path / "cut")], code=KILLED), checkpoint.exists)
    assert not (checkpoint.parent / CARD).exists()
    with pytest.raises(RunError, match="is not finished"):
        SupernetEvaluator(EvaluatorContext(task, LONG, tmp_path / "other", tmp_path / "cut"))
    for name in ("cut", "whole"):
        process = start_nas([str(tmp_path / name)], code=KILLED)
        process.join()
        assert process.exitcode == 0
    cards = [json.loads((tmp_path / name / "supernet" / CARD).read_text()) for name in ("cut", "whole")]
    assert len(cards[0]["losses"]) == 5
    assert cards[0] == cards[1]
    banks = [(tmp_path / name / "supernet" / BANK).read_bytes() for name in ("cut", "whole")]
    assert banks[0] == banks[1]
    evaluators = [SupernetEvaluator(EvaluatorContext(task, LONG, tmp_path / name)) for name in ("cut", "whole")]
    accuracies = [[list(evaluator.evaluate(arch, 0)) for arch in some(SPACE, 6)] for evaluator in evaluators]
    assert accuracies[0] == accuracies[1]


def test_a_corrupt_checkpoint_is_named(task: Classification, tmp_path: Path) -> None:
    checkpoint = tmp_path / "supernet" / CHECKPOINT
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: not a checkpoint"):
        SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path))


def test_a_checkpoint_of_another_network_is_named(task: Classification, tmp_path: Path) -> None:
    from nas.training.checkpoint import save_checkpoint

    recipe = SupernetRecipe(SupernetTraining(epochs=1))
    save_checkpoint(tmp_path / "c.pt", {}, {"supernet": {}, "optimizer": {}, "schedule": {}, "losses": []})
    with pytest.raises(WeightsError, match=r"c\.pt: not a checkpoint of this supernet"):
        list(train_supernet(Supernet(SPACE), task, task.train_set(16, 100), recipe, 0, checkpoint=tmp_path / "c.pt"))


def test_without_memory_the_batch_size_is_named(task: Classification, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("nas.evaluators.supernet.training._step", fail)
    with pytest.raises(TrainingError, match="out of memory with 32 images per step; reduce supernet"):
        list(train_supernet(Supernet(SPACE), task, task.train_set(16, 100), SupernetRecipe(SPACE.supernet), 0))


def test_another_recipe_in_the_same_folder_is_refused(task: Classification, tmp_path: Path) -> None:
    SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path))
    with pytest.raises(RunError, match="epochs: the supernet is for another search: 2 there, 5 here"):
        SupernetEvaluator(EvaluatorContext(task, LONG, tmp_path))
    with pytest.raises(RunError, match="seed: the supernet is for another search: 0 there, 1 here"):
        SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path, seed=1))


def test_a_second_search_from_the_same_supernet_trains_no_supernet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**DATA, "final": {"epochs": 1, "images": 200}}))

    def search(target: str, run: str, *more: str) -> dict[str, Any]:
        command = ["search", "--space", str(tmp_path / "small.yaml"), "--runtime", "null", "--trials", "3", "--json"]
        assert main([*command, "--target-latency", target, "--run", str(tmp_path / run), *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    first = search("1s", "first", "--evaluator", "supernet")
    monkeypatch.setattr("nas.evaluators.supernet.evaluator.train_supernet", None)  # to train would be an error
    second = search("2s", "second", "--supernet", str(tmp_path / "first"))
    assert second["settings"]["evaluator"] == "supernet"
    for result in (first, second):
        assert result["settings"]["proxy"]["training"]["epochs"] == 2
        assert 0 <= result["best"]["test_accuracy"] <= 1
        assert result["noise"] is None
    assert not (tmp_path / "second" / "supernet").exists()
    from_first = ["--supernet", str(tmp_path / "first"), "--train-finalists", "2"]
    third = search("1s", "third", *from_first)
    elsewhere = search("1s", "elsewhere", *from_first, "--workers", "2")
    repeats = [{item["architecture"]: item["repeats"] for item in run["finalists"]} for run in (third, elsewhere)]
    assert repeats[0] == repeats[1]
    trained = [item["repeats"] for item in third["finalists"] if item["repeats"]]
    assert [len(repeats) for repeats in trained] == [2, 2]
    assert third["finalists"][0]["repeats"] in trained
    assert third["best"]["estimate"] == pytest.approx(
        fmean(item["accuracy"] for item in third["finalists"][0]["repeats"])
    )
    assert third["noise"] is not None
    shared = {item["architecture"]: item["accuracy"] for item in first["candidates"]}
    both = [item for item in second["candidates"] if item["architecture"] in shared]
    assert all(item["accuracy"] == shared[item["architecture"]] for item in both)


def test_the_winner_starts_from_the_shared_weights(task: Classification, tmp_path: Path) -> None:
    evaluator = SupernetEvaluator(EvaluatorContext(task, SPACE, tmp_path))
    arch = some(SPACE, 1)[0]
    network = first_weights(arch, 0, None, evaluator)
    supernet = Supernet(SPACE)
    load_bank(supernet, tmp_path / "supernet" / BANK)
    for name, parameter in supernet.extract(arch).named_parameters():
        assert torch.equal(parameter, network.get_parameter(name))


@pytest.mark.parametrize("head", ["gfl_head", "efficientdet_head"])
def test_a_shared_head_of_detectors_begins_as_that_of_a_network(head: str) -> None:
    data = {
        "resolution": 32,
        "stages": [{"block": "conv", "out_channels": [8, 12], "stride": 4, "kernel_size": 5, "tap": True}],
        "neck": [{"block": "conv", "kernel_size": 1, "out_channels": 8}],
        "head": {"block": head, "num_layers": 1, "num_classes": 3},
    }
    space = parse_space("small", data, "small.yaml")
    arch = some(space, 1)[0]
    expected = {name: each for name, each in build(arch).named_parameters() if name.endswith("bias")}
    extracted = dict(Supernet(space).extract(arch).named_parameters())
    assert any(each.any() for each in expected.values())
    assert all(torch.equal(extracted[name], each) for name, each in expected.items())
