"""Encoded spaces: a finite set of candidates as arrays of indices, with costs that are known without an evaluation.

A candidate is a row with one index per choice, -1 if the choice is inactive (its layer does not exist, or its operator
is not chosen). Controllers see these rows and no architectures, so they search a space, a table of cells and a grid of
scaling coefficients in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Scalar

Values = tuple[Scalar, ...]
Choices = Mapping[str, Scalar]
Choose = Callable[[str, Values], Scalar]
Conditions = Mapping[str, tuple[tuple[str, frozenset[Scalar]], ...]]
"""For each conditional choice, pairs (other key, allowed values) that must all hold. Others are always active."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Indices = NDArray[np.int16]
"""(N, choices): the index of each choice's value, -1 if the choice is inactive."""


@dataclass(frozen=True)
class CandidateCosts:
    """Facts about N candidates that are known before any evaluation.

    Attributes:
        keys: (N,); equal keys mean the same network.
        latency_ms: Predicted latencies in ms, (N,) or (devices, N).
        features: Further numbers that describe a candidate, such as log MACs, (N, features).
    """

    keys: NDArray[Any]
    latency_ms: Floats
    features: Floats

    def take(self, which: NDArray[Any]) -> CandidateCosts:
        """Return the facts of some candidates, given by indices or a mask."""
        return CandidateCosts(self.keys[which], self.latency_ms[..., which], self.features[which])


def no_costs(rows: Indices) -> CandidateCosts:
    """Serve as `facts` of a space whose latency table is not loaded yet."""
    raise AssertionError("costs are not available before the latency table is loaded")


@dataclass(frozen=True)
class EncodedSpace:
    """A set of candidates as rows of indices.

    Attributes:
        choices: Every choice with its values. A choice comes after the choices that its conditions name.
        facts: Returns the facts about rows, (N, choices).
        conditions: The conditions of choices that are not always active.
        features: The names of the columns of `CandidateCosts.features`.
    """

    choices: Mapping[str, Values]
    facts: Callable[[Indices], CandidateCosts]
    conditions: Conditions = field(default_factory=dict)
    features: tuple[str, ...] = ()

    @cached_property
    def widths(self) -> NDArray[np.int16]:
        """The number of values of each choice, (choices,)."""
        return np.array([len(values) for values in self.choices.values()], np.int16)

    @cached_property
    def _gates(self) -> dict[int, tuple[tuple[int, NDArray[np.bool_]], ...]]:
        """For each conditional choice, pairs (other choice, mask of its indices that activate this one).

        The last entry of a mask stands for the index -1 and is False: an inactive choice activates nothing.
        """
        place = {key: at for at, key in enumerate(self.choices)}
        found = {}
        for key in sorted(self.conditions, key=place.__getitem__):
            gates = []
            for other, allowed in self.conditions[key]:
                gates.append((place[other], np.array([*(value in allowed for value in self.choices[other]), False])))
            found[place[key]] = tuple(gates)
        return found

    def activate(self, full: Indices) -> Indices:
        """Set inactive choices of `full`, (N, choices), to -1 in place, and return it. Every index must be given."""
        for place, gates in self._gates.items():
            for other, allowed in gates:
                full[~allowed[full[:, other]], place] = -1
        return full

    def random_rows(self, count: int, rng: np.random.Generator) -> Indices:
        """Return `count` rows of uniform indices, without -1 for inactive choices."""
        return rng.integers(0, self.widths, (count, len(self.widths)), np.int16)

    def sample(self, count: int, rng: np.random.Generator) -> Indices:
        """Return `count` rows with uniformly drawn active choices."""
        return self.activate(self.random_rows(count, rng))

    def mutate(self, rows: Indices, rng: np.random.Generator) -> Indices:
        """Return the rows with one active choice changed in each. Newly active choices are drawn uniformly."""
        count = len(rows)
        movable = (rows >= 0) & (self.widths > 1)
        if not movable.any(axis=1).all():
            return rows.copy()
        place = np.where(movable, rng.random(rows.shape), -1.0).argmax(axis=1)
        line, widths = np.arange(count), self.widths[place]
        changed = np.where(rows >= 0, rows, self.random_rows(count, rng))
        changed[line, place] = (rows[line, place] + 1 + rng.integers(0, widths - 1)) % widths
        return self.activate(changed)

    def neighbours(self, row: Indices) -> Indices:
        """Return every row that differs from `row`, (choices,), in one active choice. Newly active ones get index 0."""
        found = []
        base = np.maximum(row, 0)
        for place in np.flatnonzero(row >= 0):
            for index in range(int(self.widths[place])):
                if index != row[place]:
                    changed = base.copy()
                    changed[place] = index
                    found.append(changed)
        empty = np.zeros((0, len(row)), np.int16)
        return self.activate(np.array(found, np.int16)) if found else empty

    def walk(self, choose: Choose) -> dict[str, Scalar]:
        """Return the active choices, each made by `choose(key, values)`."""
        chosen: dict[str, Scalar] = {}
        for key, values in self.choices.items():
            needed = self.conditions.get(key, ())
            if all(other in chosen and chosen[other] in allowed for other, allowed in needed):
                chosen[key] = choose(key, values)
        return chosen

    def encode(self, choices: Choices) -> Indices:
        """Return the row, (choices,), of active choices given by key."""
        pairs = self.choices.items()
        return np.array([values.index(choices[key]) if key in choices else -1 for key, values in pairs], np.int16)

    def decode(self, row: Indices) -> dict[str, Scalar]:
        """Return the active choices of a row, (choices,), by key."""
        pairs = zip(self.choices.items(), row.tolist(), strict=True)
        return {key: values[index] for (key, values), index in pairs if index >= 0}

    @cached_property
    def size(self) -> int:
        """The number of rows, computed without listing them. Several rows may give the same network.

        Rows that agree in all choices that later conditions name have the same continuations and are counted together.
        """
        last_use = {other: place for place, gates in self._gates.items() for other, _ in gates}
        counts: dict[tuple[tuple[int, int], ...], int] = {(): 1}
        for place, width in enumerate(self.widths.tolist()):
            after: dict[tuple[tuple[int, int], ...], int] = {}
            for needed, count in counts.items():
                given = dict(needed)
                is_active = all(allowed[given[other]] for other, allowed in self._gates.get(place, ()))
                kept = tuple(pair for pair in needed if last_use[pair[0]] > place)
                if place in last_use:
                    for index in range(width) if is_active else (-1,):
                        state = (*kept, (place, index))
                        after[state] = after.get(state, 0) + count
                else:
                    after[kept] = after.get(kept, 0) + count * (width if is_active else 1)
            counts = after
        return sum(counts.values())

    def all_rows(self) -> Indices:
        """Return every row, (size, choices). The last choice varies fastest."""
        rows = np.full((1, len(self.widths)), -1, np.int16)
        for place, width in enumerate(self.widths.tolist()):
            is_active = self.active(rows, place)
            repeats = np.where(is_active, width, 1)
            first = np.repeat(np.cumsum(repeats) - repeats, repeats)
            rows = np.repeat(rows, repeats, axis=0)
            rows[:, place] = np.where(np.repeat(is_active, repeats), np.arange(len(rows)) - first, -1)
        return rows

    def active(self, rows: Indices, place: int) -> NDArray[np.bool_]:
        """Return whether choice number `place` is active, (N,), in rows that are complete up to it."""
        found = np.ones(len(rows), np.bool_)
        for other, allowed in self._gates.get(place, ()):
            found &= allowed[rows[:, other]]
        return found
