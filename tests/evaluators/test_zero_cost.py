"""Zero-cost scores: against their definitions by hand, and over every block family."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.architecture import Architecture, BlockSpec
from nas.errors import UsageError
from nas.evaluators import zero_cost_scores as zero_cost
from nas.evaluators.zero_cost import relative_rank
from nas.evaluators.zero_cost_scores import (
    ZERO_COST,
    Probe,
    draw_batch,
    independence,
    score,
    shared_codes,
    sum_of_log_ratios,
    synaptic_flow,
)
from nas.networks.network import totals, trace
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import normalize

ZOO: Space = load_space("zoo").for_classes(10)
TRAINED = [name for name in ZERO_COST if name not in ("params", "macs")]


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_cost, "BATCH", 16)


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


def of_family(family: str) -> Architecture:
    """A small network whose stages, the first of the zoo's, are all of one family."""
    rng = random.Random(1)

    def choose(key: str, values: tuple[object, ...]) -> object:
        return family if key.endswith(".block") else rng.choice(values)

    arch = ZOO.walk(choose)[0]  # type: ignore[arg-type]
    return replace(arch, stages=arch.stages[:3])


def test_synaptic_flow_of_a_linear_network_by_hand() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))  # type: ignore[operator]
        network[1].weight.copy_(torch.tensor([[-5.0, 6.0]]))  # type: ignore[operator]
    # R = 5 (1 + 2) + 6 (3 + 4) = 57, and each layer's |w dR/dw| sum to R: the flow is conserved.
    flow = synaptic_flow(network, torch.ones((1, 2), dtype=torch.float64))
    assert flow.item() == pytest.approx(2 * 57)


def test_synaptic_flow_is_conserved_through_batch_norm_and_every_activation() -> None:
    for activation in (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU):
        torch.manual_seed(0)
        first, last = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False)
        weights = [layer.weight.detach().abs().double() for layer in (first, last)]
        network = nn.Sequential(first, nn.BatchNorm2d(8), activation(), last)
        ones = torch.ones((1, 3, 9, 9), dtype=torch.float64)
        output = nn.functional.conv2d(nn.functional.conv2d(ones, weights[0]), weights[1]).sum()
        assert synaptic_flow(network, ones).item() == pytest.approx(2 * output.item())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU])
@pytest.mark.parametrize("inplace", [False, True])
def test_codes_are_the_signs_of_the_inputs(activation: Callable[[bool], nn.Module], inplace: bool) -> None:
    x = torch.tensor([[1.0, -2.0, 3.0, -0.5], [1.0, 2.0, -9.0, -4.0], [-1.0, 7.0, 8.0, 9.0]])
    shared = shared_codes(nn.Sequential(nn.Identity(), activation(inplace)), x.clone())
    assert shared.tolist() == [[4, 2, 1], [2, 4, 1], [1, 1, 4]]


def test_naswot_is_the_log_determinant_of_shared_codes(task: Classification) -> None:
    arch, batch = of_family("mbconv"), draw_batch(task, 32, 0)
    probe = Probe(arch, batch, 0)
    shared = shared_codes(probe.network(), normalize(batch.images))
    units = shared[0, 0].item()
    assert (shared.diagonal() == units).all()
    assert torch.equal(shared, shared.T)
    assert ZERO_COST["naswot"](probe) == pytest.approx(float(np.linalg.slogdet(shared.numpy())[1]))


def test_zico_by_hand() -> None:
    layers = [torch.tensor([[1.0, -2.0, 5.0], [-3.0, 4.0, 5.0]]), torch.tensor([[2.0], [-6.0]])]
    # |g| has means 2, 3, 5 and deviations 1, 1, 0: the third does not vary; in the second layer 4 and 2.
    assert sum_of_log_ratios(layers) == pytest.approx(math.log(2 / 1 + 3 / 1) + math.log(4 / 2))
    assert math.isnan(sum_of_log_ratios([torch.zeros(2, 3)]))


def test_independence_is_highest_without_correlation() -> None:
    independent = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    k = 1e-5
    assert independence(independent) == pytest.approx(-3 * (math.log(1 + k) + 1 / (1 + k)))
    same = independent[[0, 0, 1]]
    eigenvalues = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64) + k
    assert independence(same) == pytest.approx(-(eigenvalues.log() + 1 / eigenvalues).sum().item(), rel=1e-6)


def test_grad_norm_sums_the_norms_of_the_layers(task: Classification) -> None:
    probe = Probe(of_family("conv"), draw_batch(task, 32, 0), 0)
    network = probe.network()
    next(probe.batch.losses(network)).backward()  # type: ignore[no-untyped-call]
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [w.grad.norm().item() for w in weights if w.grad is not None]
    assert ZERO_COST["grad_norm"](probe) == pytest.approx(sum(norms), rel=1e-4)


def test_baselines_are_of_the_deployed_network(task: Classification) -> None:
    arch = of_family("mbconv")
    whole = totals(trace(arch))
    batch = draw_batch(task, 32, 0)
    assert score("params", arch, batch, 0) == whole.params
    assert score("macs", arch, batch, 0) == whole.macs


@pytest.mark.parametrize("family", [operator.label for operator in ZOO.stages[1].operators])
def test_every_family_has_every_score(family: str, task: Classification) -> None:
    arch = of_family(family)
    before = torch.random.get_rng_state()
    batch = draw_batch(task, 32, 3)
    features = {name: score(name, arch, batch, 3) for name in ZERO_COST}
    assert all(math.isfinite(value) for value in features.values())
    assert features["zico"] == score("zico", arch, draw_batch(task, 32, 3), 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_score_depends_on_its_seed(task: Classification) -> None:
    arch, batch = of_family("osa"), draw_batch(task, 32, 0)
    for name in TRAINED:
        assert score(name, arch, batch, 1) == score(name, arch, batch, 1) != score(name, arch, batch, 2)


def test_a_network_without_activations_has_no_codes(task: Classification) -> None:
    stage = (BlockSpec.of("conv", {"out_channels": 8, "stride": 2, "activation": "none"}),)
    arch = Architecture(16, (stage,), BlockSpec.of("classifier", {"num_classes": 10}))
    batch = draw_batch(task, 16, 0)
    with pytest.raises(TrainingError, match="naswot: the network has no activations"):
        score("naswot", arch, batch, 0)
    assert all(math.isfinite(score(name, arch, batch, 0)) for name in ZERO_COST if name != "naswot")


def test_what_is_not_finite_is_named(task: Classification, monkeypatch: pytest.MonkeyPatch) -> None:
    arch, batch = of_family("fire"), draw_batch(task, 32, 0)
    monkeypatch.setitem(ZERO_COST, "zico", lambda probe: math.nan)
    with pytest.raises(TrainingError, match=f"zico: the score of {arch.digest} is nan"):
        score("zico", arch, batch, 0)
    with pytest.raises(UsageError, match="unknown zero-cost score 'sinflow'; did you mean 'synflow'"):
        score("sinflow", arch, batch, 0)


def test_a_batch_is_drawn_by_its_seed_from_the_training_images(task: Classification) -> None:
    def drawn(seed: int) -> Tensor:
        batch = draw_batch(task, 8, seed)
        assert batch.images.shape == (zero_cost.BATCH, 3, 8, 8)
        assert batch.images.dtype == torch.uint8
        assert len({label for _, label in batch.items}) > 5
        return batch.images

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


FINITE = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(reference=st.lists(FINITE, min_size=1, max_size=20), values=st.lists(FINITE, min_size=2, max_size=20))
@example(reference=[0.0, 1.0, 1.0, 1.0, -99.0], values=[0.0, -3.2721285401252666e-75])
def test_a_place_lies_inside_and_keeps_the_order(reference: list[float], values: list[float]) -> None:
    places = [relative_rank(value, reference) for value in sorted(values)]
    assert all(0 <= found <= 1 for found in places)
    assert places == sorted(places)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=20), st.integers(-300, 300), st.integers(-300, 300))
def test_different_scores_have_different_places(reference: list[int], one: int, other: int) -> None:
    numbers = [float(value) for value in reference]
    assert (relative_rank(one, numbers) < relative_rank(other, numbers)) == (one < other)


def test_places_among_three() -> None:
    assert [relative_rank(value, [1.0, 2.0, 4.0]) for value in (1, 2, 3, 4)] == pytest.approx(
        [1 / 6, 1 / 2, 2 / 3, 5 / 6]
    )
    assert relative_rank(7, [1.0, 2.0, 4.0]) == pytest.approx(1 - 1 / 12)
    assert relative_rank(5, [5.0, 5.0]) == 0.5
