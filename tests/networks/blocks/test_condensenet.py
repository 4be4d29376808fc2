"""Learned group convolution: stages, jumps, criterion, penalty, and equal outputs once it is deployed."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from nas.errors import SpaceError
from nas.networks.block_schema import block_spec
from nas.networks.blocks.condense import Condense, LearnedGroupConv
from nas.networks.blocks.condensed import Condensed
from nas.networks.blocks.norm_classifier import NormClassifier
from nas.networks.condensenet import group_lasso, learned_groups, set_progress
from nas.networks.deployment import deploy
from nas.networks.network import build, traced
from nas.spaces.yaml_format import load_architecture
from tests.helpers.batch_norms import shake_batch_norms

FORMS = [(4, 4), (8, 8), (4, 8), (8, 4), (4, 1), (1, 4)]
"""(groups, condense_factor)."""


def layer(groups: int = 4, condense_factor: int = 4, in_channels: int = 32) -> LearnedGroupConv:
    torch.manual_seed(0)
    return LearnedGroupConv(in_channels, 16, groups, condense_factor)


def block(groups: int, condense_factor: int, stride: int = 1) -> Condense:
    torch.manual_seed(0)
    made = Condense(32, growth_rate=8, groups=groups, condense_factor=condense_factor, stride=stride)
    shake_batch_norms(made)
    return made.eval()


def kept(conv: LearnedGroupConv) -> list[int]:
    return [int(count) for count in conv.mask.sum(1)]


def test_four_parts_go_in_three_stages_of_the_first_half() -> None:
    conv = layer()
    seen: dict[int, int] = {}
    for step in range(121):
        conv.set_progress(step / 120)
        seen.setdefault(kept(conv)[0], step)
        assert len(set(kept(conv))) == 1
    assert seen == {32: 0, 24: 20, 16: 40, 8: 60}


@pytest.mark.parametrize("condense_factor", [2, 4, 8, 16])
def test_every_stage_begins_at_its_exact_fraction(condense_factor: int) -> None:
    for stage in range(1, condense_factor):
        start = Fraction(stage, 2 * (condense_factor - 1))
        conv = layer(condense_factor=condense_factor)
        conv.set_progress(float(start) - 1e-6)
        assert conv.stage == stage - 1
        conv.set_progress(float(start))
        assert conv.stage == stage


@pytest.mark.parametrize("progress", [0.2, 0.4, 0.6, 1.0])
def test_a_jump_prunes_all_that_it_owes(progress: float) -> None:
    slow, jump = layer(condense_factor=8), layer(condense_factor=8)
    for step in range(101):
        slow.set_progress(progress * step / 100)
    jump.set_progress(progress)
    assert jump.stage == slow.stage > 0
    assert torch.equal(jump.mask, slow.mask)


def test_what_is_pruned_stays_pruned() -> None:
    conv = layer()
    conv.set_progress(0.4)
    before = conv.mask.clone()
    conv.set_progress(0.0)
    assert torch.equal(conv.mask, before)
    nn.init.normal_(conv.conv.weight)
    conv.set_progress(1.0)
    assert (conv.mask <= before).all()


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_a_progress_outside_of_the_training_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\]"):
        layer().set_progress(progress)


def test_each_group_drops_the_inputs_with_the_smallest_sums_over_its_outputs() -> None:
    conv = layer()
    conv.set_progress(1 / 6)
    for group in range(4):
        sums = conv.conv.weight[group::4].abs().sum((0, 2, 3))
        dropped = set(sums.sort().indices[:8].tolist())
        assert set((conv.mask[group] == 0).nonzero().flatten().tolist()) == dropped


@torch.no_grad()
def test_the_mask_silences_inputs_group_by_group() -> None:
    conv = layer().eval()
    conv.set_progress(1.0)
    image = torch.randn(1, 32, 3, 3)
    expected = conv(image)
    for group in range(4):
        changed = image.clone()
        changed[:, conv.mask[group] == 0] += 1
        assert torch.equal(conv(changed)[:, group::4], expected[:, group::4])
        assert not torch.equal(conv(changed), expected)


def test_pruned_weights_get_no_gradient() -> None:
    conv = layer()
    conv.set_progress(1.0)
    conv(torch.randn(2, 32, 3, 3)).square().sum().backward()
    gradient = conv.conv.weight.grad
    assert gradient is not None
    pruned = (conv.mask == 0).repeat(4, 1)[:, :, None, None]
    assert (gradient[pruned] == 0).all()
    assert (gradient[~pruned] != 0).all()


def test_the_mask_is_part_of_the_state() -> None:
    conv, fresh = layer(), layer()
    conv.set_progress(0.4)
    fresh.load_state_dict(conv.state_dict())
    assert fresh.stage == conv.stage == 2
    fresh.set_progress(0.5)
    conv.set_progress(0.5)
    assert torch.equal(fresh.mask, conv.mask)


@pytest.mark.parametrize(("groups", "condense_factor"), FORMS)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_the_deployed_layer_computes_the_same(groups: int, condense_factor: int, progress: float, stride: int) -> None:
    trained = block(groups, condense_factor, stride)
    set_progress(trained, progress)
    image = torch.randn(2, 32, 6, 6)
    expected = trained(image)
    once = trained.deploy()
    assert isinstance(once, Condensed)
    torch.testing.assert_close(once(image), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(deploy(trained)(image), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(trained(image), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("groups", "condense_factor"), FORMS)
@torch.no_grad()
def test_a_trained_layer_becomes_a_condensed_block(groups: int, condense_factor: int) -> None:
    trained = block(groups, condense_factor)
    set_progress(trained, 1.0)
    fixed = Condensed(32, growth_rate=8, groups=groups, condense_factor=condense_factor).eval()
    fixed.load_state_dict(trained.deploy().state_dict())
    image = torch.randn(2, 32, 6, 6)
    torch.testing.assert_close(fixed(image), trained(image), rtol=0, atol=1e-5)


def test_the_penalty_is_the_sum_of_the_norms_that_are_left() -> None:
    conv = layer()
    conv.set_progress(1 / 6)
    squares = conv.conv.weight.detach().reshape(-1, 4, 32).square().sum(0) * conv.mask
    expected = sum(max(square, 1e-6) ** 0.5 for square in squares.flatten().tolist())
    assert conv.lasso().item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_sums_over_a_model_and_ends_with_the_last_stage() -> None:
    model = nn.Sequential(layer(), layer(condense_factor=8))
    first, second = learned_groups(model)
    penalty = group_lasso(model)
    assert penalty.item() == pytest.approx((first.lasso() + second.lasso()).item(), rel=1e-6)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert all(conv.conv.weight.grad is not None for conv in (first, second))
    set_progress(model, 1.0)
    assert (group_lasso(model)).item() == 0.0
    assert (group_lasso(nn.Conv2d(3, 8, 1))).item() == 0.0


@pytest.mark.parametrize("name", ["condensenet50_cifar10", "condensenet50_cifar100"])
@torch.no_grad()
def test_a_trained_network_becomes_the_one_of_test_time(name: str) -> None:
    torch.manual_seed(0)
    train, test = load_architecture(f"{name}_train"), load_architecture(f"{name}_test")
    deployed_specs = [
        [("condensed", spec.args) if spec.op == "condense" else (spec.op, spec.args) for spec in stage]
        for stage in train.stages
    ]
    assert deployed_specs == [[(spec.op, spec.args) for spec in stage] for stage in test.stages]
    network = build(train).eval()
    set_progress(network, 1.0)
    image = torch.randn(1, 3, 32, 32)
    deployed = deploy(network)
    torch.testing.assert_close(deployed(image), network(image), rtol=1e-5, atol=1e-5)
    head = network.head
    assert isinstance(head, NormClassifier)
    macs = sum(m.weight.numel() for m in deployed.modules() if isinstance(m, nn.Conv2d))
    assert macs == sum(m.weight.numel() for m in build(test).modules() if isinstance(m, nn.Conv2d))
    assert {"index", *head.state_dict()} == {*build(test).head.state_dict()}


@torch.no_grad()
def test_the_condensed_classifier_reads_the_features_that_its_index_names() -> None:
    torch.manual_seed(0)
    head, condensed = NormClassifier((10,), num_classes=3).eval(), NormClassifier((10,), num_classes=3, keep=0.5).eval()
    assert condensed.index is not None and condensed.index.tolist() == [0, 2, 4, 6, 8]
    condensed.index.copy_(torch.tensor([1, 2, 5, 6, 7]))
    head.linear.weight[:, [0, 3, 4, 8, 9]] *= 1e-4
    condensed.linear.weight.copy_(head.linear.weight[:, condensed.index])
    condensed.linear.bias.copy_(head.linear.bias)
    image = torch.randn(2, 10, 4, 4)
    torch.testing.assert_close(condensed([image]), head([image]), rtol=0, atol=1e-3)


def test_training_it_trains_what_is_left() -> None:
    trained = block(4, 4).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    image, target = torch.randn(8, 32, 4, 4), torch.randn(8, 40, 4, 4)
    losses: list[Tensor] = []
    for step in range(12):
        losses.append((trained(image) - target)[:, 32:].square().mean() + 1e-5 * group_lasso(trained))
        optimizer.zero_grad()
        losses[-1].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        set_progress(trained, (step + 1) / 12)
    assert losses[-1] < losses[0]
    assert kept(trained.squeeze) == [8, 8, 8, 8]


@pytest.mark.parametrize("op", ["condense", "condensed"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"growth_rate": 8, "condense_factor": 3}, "condense_factor must divide the channels: 16, 3"),
        ({"growth_rate": 8, "condense_factor": 0}, "condense_factor must divide the channels: 16, 0"),
        ({"growth_rate": 8, "groups": 3}, "groups must divide the channels: 32 -> 8, groups 3"),
        ({"growth_rate": 8, "groups": 0}, "groups must divide the channels: 32 -> 8, groups 0"),
        ({"growth_rate": 2, "groups": 4}, "groups must divide the channels: 8 -> 2, groups 4"),
        ({"growth_rate": 0}, "growth_rate and bottleneck must be at least 1: 0, 4"),
        ({"growth_rate": 8, "stride": 3}, "stride must be 1 or 2: 3"),
    ],
)
def test_a_layer_that_cannot_be_names_rule_and_value(op: str, args: dict[str, int], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        traced(block_spec(op, args), (16, 8, 8))
