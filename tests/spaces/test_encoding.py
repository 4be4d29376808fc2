"""Rows of indices are the space's own choices, in every space that is shipped."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nas.networks.network import canonical, totals, trace
from nas.spaces.encoded_space import encode_space
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.spaces.yaml_format import load_space
from tests.helpers.space_rows import active, encode, neighbours

SPACES = ["mnasnet", "mobile", "ofa", "nb_macro", "fbnet", "cifar"]


def facts(rows: Indices) -> CandidateCosts:
    return CandidateCosts(np.arange(len(rows)), np.ones(len(rows)), np.zeros((len(rows), 0)))


@pytest.mark.parametrize("name", SPACES)
def test_rows_are_active_choices_of_the_space(name: str) -> None:
    space = load_space(name)
    domain = EncodedSpace(space.choices, facts, space.conditions)
    rng = np.random.default_rng(1)
    rows = domain.sample(60, rng)
    changed = domain.mutate(rows, rng)
    for row, other in zip(rows, changed, strict=True):
        choices = domain.decode(row)
        assert active(space, choices) == choices
        assert tuple(row.tolist()) == encode(space, choices) == tuple(domain.encode(choices).tolist())
        mutant = domain.decode(other)
        assert active(space, mutant) == mutant != choices
        rng_of_walk = random.Random(int(row.sum()))
        walked = domain.walk(lambda key, values, draw=rng_of_walk: draw.choice(values))  # type: ignore[misc]
        assert active(space, walked) == walked
    near = [domain.decode(other) for other in domain.neighbours(rows[0])]
    assert near == list(neighbours(space, domain.decode(rows[0])))


@pytest.mark.parametrize("name", SPACES)
def test_facts_are_those_of_the_networks(name: str) -> None:
    space = load_space(name)
    domain = encode_space(space, lambda layer: layer.macs / 1e6, 0.25)
    rows = domain.sample(12, np.random.default_rng(2))
    known = domain.facts(rows)
    for row, latency_ms, features in zip(rows, known.latency_ms, known.features, strict=True):
        whole = totals(trace(space.decode(domain.decode(row))))
        assert latency_ms == pytest.approx(whole.macs / 1e6 + 0.25)
        assert np.exp(features) == pytest.approx([whole.macs, whole.params])
    again = domain.facts(rows)
    assert (again.keys == known.keys).all()


def test_equal_networks_have_equal_keys_and_others_do_not() -> None:
    space = load_space("mobile")
    domain = encode_space(space, lambda layer: 1.0)
    rows = domain.sample(300, np.random.default_rng(3))
    keys = [key.tobytes() for key in domain.facts(rows).keys]
    digests = [canonical(space.decode(domain.decode(row))).digest for row in rows]
    assert len(set(zip(keys, digests, strict=True))) == len(set(keys)) == len(set(digests))


def test_every_row_of_a_small_space_once() -> None:
    space = load_space("nb_macro")
    domain = EncodedSpace(space.choices, facts, space.conditions)
    found = list(map(tuple, domain.all_rows().tolist()))
    assert found == sorted(set(found))
    assert len(found) == domain.size == space.size == 3969
    assert all(encode(space, domain.decode(np.array(row))) == row for row in found[:50])


@pytest.mark.parametrize("name", SPACES)
def test_the_size_is_counted_without_making_the_rows(name: str) -> None:
    space = load_space(name)
    assert EncodedSpace(space.choices, facts, space.conditions).size == space.size


def test_what_is_active_is_known_from_what_comes_before() -> None:
    space = load_space("mobile")
    domain = EncodedSpace(space.choices, facts, space.conditions)
    rows = domain.sample(200, np.random.default_rng(4))
    for place in range(len(domain.widths)):
        assert (domain.active(rows, place) == (rows[:, place] >= 0)).all()
