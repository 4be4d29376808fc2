"""What a controller searches: a finite set of candidates as arrays of indices, and what is known of each for nothing.

A candidate is a row of indices, one for each choice, -1 where the choice is inactive (a layer that is not there, an
operator that was not taken). A controller sees no architecture: a search space, a table of cells and a grid of
scaling coefficients are the same to it.
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
"""Where a key is missing, its choice is always active; else every (other key, values) must hold."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Indices = NDArray[np.int16]
"""(N, choices): the index of each choice's value, -1 where it is inactive."""


@dataclass(frozen=True)
class CandidateCosts:
    """What is known of N candidates before any evaluation. Equal `keys`, (N,), mean the same network.

    `latency_ms`, (N,) or (devices, N), is predicted; `features` (N, any number) is what else tells candidates apart,
    as log MACs.
    """

    keys: NDArray[Any]
    latency_ms: Floats
    features: Floats

    def take(self, which: NDArray[Any]) -> CandidateCosts:
        """Return those of some candidates, by their places or a mask."""
        return CandidateCosts(self.keys[which], self.latency_ms[..., which], self.features[which])


def no_costs(rows: Indices) -> CandidateCosts:
    """Stand for facts that are not there yet: a domain may be looked at before its latencies are known."""
    raise AssertionError("nobody may ask for facts before there are any")


@dataclass(frozen=True)
class EncodedSpace:
    """Choices with their values, when each is active, and a function that tells the facts.

    `choices` are in the order in which they are asked: what decides whether another is active comes before it.
    `features` names those of the facts.
    """

    choices: Mapping[str, Values]
    facts: Callable[[Indices], CandidateCosts]
    conditions: Conditions = field(default_factory=dict)
    features: tuple[str, ...] = ()

    @cached_property
    def widths(self) -> NDArray[np.int16]:
        """How many values each choice has, (choices,)."""
        return np.array([len(values) for values in self.choices.values()], np.int16)

    @cached_property
    def _gates(self) -> dict[int, tuple[tuple[int, NDArray[np.bool_]], ...]]:
        """The choices that each conditional one depends on, and which of their indices (the last: -1) let it be.

        A choice depends on others only if these are active themselves.
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
        """Return the rows, (N, choices), with -1 for what is inactive; every index must be given, in place changed."""
        for place, gates in self._gates.items():
            for other, allowed in gates:
                full[~allowed[full[:, other]], place] = -1
        return full

    def fill(self, count: int, rng: np.random.Generator) -> Indices:
        """Return rows of uniform indices, the inactive ones too."""
        return rng.integers(0, self.widths, (count, len(self.widths)), np.int16)

    def sample(self, count: int, rng: np.random.Generator) -> Indices:
        """Return `count` rows, each active choice drawn uniformly."""
        return self.activate(self.fill(count, rng))

    def mutate(self, rows: Indices, rng: np.random.Generator) -> Indices:
        """Return the rows with one active choice changed in each; what becomes active thereby is drawn uniformly."""
        count = len(rows)
        movable = (rows >= 0) & (self.widths > 1)
        if not movable.any(axis=1).all():
            return rows.copy()
        place = np.where(movable, rng.random(rows.shape), -1.0).argmax(axis=1)
        line, widths = np.arange(count), self.widths[place]
        changed = np.where(rows >= 0, rows, self.fill(count, rng))
        changed[line, place] = (rows[line, place] + 1 + rng.integers(0, widths - 1)) % widths
        return self.activate(changed)

    def neighbours(self, row: Indices) -> Indices:
        """Return every row that differs from `row`, (choices,), in one active choice; new choices take index 0."""
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
        """Return the active choices, each as `choose(key, values)` answers."""
        chosen: dict[str, Scalar] = {}
        for key, values in self.choices.items():
            needed = self.conditions.get(key, ())
            if all(other in chosen and chosen[other] in allowed for other, allowed in needed):
                chosen[key] = choose(key, values)
        return chosen

    def encode(self, choices: Choices) -> Indices:
        """Return the row, (choices,), of active choices."""
        pairs = self.choices.items()
        return np.array([values.index(choices[key]) if key in choices else -1 for key, values in pairs], np.int16)

    def decode(self, row: Indices) -> dict[str, Scalar]:
        """Return the active choices of a row, (choices,)."""
        pairs = zip(self.choices.items(), row.tolist(), strict=True)
        return {key: values[index] for (key, values), index in pairs if index >= 0}

    @cached_property
    def size(self) -> int:
        """How many rows there are, equal networks counted as often as they are spelled; counted without making them.

        Rows that agree in all choices on which a later one depends go on alike, so they are counted together.
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

    def every(self) -> Indices:
        """Return every row, (size, choices), the last choice fastest."""
        rows = np.full((1, len(self.widths)), -1, np.int16)
        for place, width in enumerate(self.widths.tolist()):
            is_active = self.active(rows, place)
            repeats = np.where(is_active, width, 1)
            first = np.repeat(np.cumsum(repeats) - repeats, repeats)
            rows = np.repeat(rows, repeats, axis=0)
            rows[:, place] = np.where(np.repeat(is_active, repeats), np.arange(len(rows)) - first, -1)
        return rows

    def active(self, rows: Indices, place: int) -> NDArray[np.bool_]:
        """Return whether the choice at `place` is active, (N,), in rows that are complete as far as it."""
        found = np.ones(len(rows), np.bool_)
        for other, allowed in self._gates.get(place, ()):
            found &= allowed[rows[:, other]]
        return found
