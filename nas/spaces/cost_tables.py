"""A space and the cost of its layers as arrays: codes for networks, and the latency of millions of them a second.

A predicted latency is `constant + sum(cost(layer))`. Neighbouring places of the lattice are folded into one table
where that stays small (a stage of shared choices becomes one, with its entering shape), so a network is some small
integers, a row of each table, and its latency the sum of as many table entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.architecture import Architecture, Scalar
from nas.errors import SpaceError
from nas.networks.network import traced
from nas.spaces.automaton import RESOLUTION, Cost, LayerPosition, SpaceAutomaton, choices_for, unroll
from nas.spaces.search_space import Choices, Space, ask_once

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Codes = NDArray[Any]
"""(tables,) or (tables, N) unsigned integers: the rows of a network, or of N of them, one column each."""

ROWS_PER_STATE = 1024
"""Places of one stage are folded up to this: what a sample weighs against each other, and what stays in the cache."""
ROWS_PER_TABLE = 1 << 15
CHUNK = 1 << 14
"""Networks predicted at once: codes, indices and sums of that many fit a second-level cache."""


@dataclass(frozen=True)
class Table:
    """Places of the lattice as one: the rows of state s are first[s] to first[s + 1], none of them alike.

    `cost` (rows,) is in ms, `after` (rows,) the state that follows, `steps` (places, rows) the row of each folded
    segment. With `shifts`, one array for each place but the last, a row is found from the rows of its places.
    """

    slot: int
    first: Integers
    after: Integers
    cost: Floats
    steps: NDArray[np.int32]
    shifts: tuple[Integers, ...]

    @property
    def rows(self) -> int:
        """The number of rows, over all states."""
        return len(self.cost)

    @property
    def states(self) -> int:
        """The number of states before it."""
        return len(self.first) - 1

    def row(self, steps: Sequence[Integers]) -> Integers:
        """Return the rows, (N,), whose places have the rows `steps`, (places, N)."""
        row = steps[0]
        for shift, step in zip(self.shifts, steps[1:], strict=True):
            row = shift[row] + step
        return row


@dataclass(frozen=True)
class SpaceCosts:
    """A space with costs. Every valid code is a distinct network, and every network of the space has one code.

    Distinct are networks whose canonical architectures differ; a layer that could stand at the end of one stage or
    at the beginning of the next makes two.
    """

    lattice: SpaceAutomaton
    tables: tuple[Table, ...]

    @property
    def space(self) -> Space:
        """The space that was compiled."""
        return self.lattice.space

    @cached_property
    def size(self) -> int:
        """The exact number of distinct networks."""
        ways: list[int] = [1] * (int(self.tables[-1].after.max()) + 1)
        for table in reversed(self.tables):
            after = table.after.tolist()
            bounds = zip(table.first[:-1].tolist(), table.first[1:].tolist(), strict=True)
            ways = [sum(ways[state] for state in after[low:high]) for low, high in bounds]
        return ways[0]

    @cached_property
    def least(self) -> tuple[Floats, ...]:
        """For each table, and after the last, the smallest cost in ms from each state to the end."""
        return self._extremes(1.0)

    def _extremes(self, sign: float) -> tuple[Floats, ...]:
        ahead = [np.zeros(int(self.tables[-1].after.max()) + 1)]
        for table in reversed(self.tables):
            ahead.append(np.minimum.reduceat(sign * table.cost + ahead[-1][table.after], table.first[:-1]))
        return tuple(reversed(ahead))

    @cached_property
    def fastest(self) -> Codes:
        """The code of an exactly fastest network, (tables,)."""
        return self._follow(self.least, 1.0)

    @cached_property
    def slowest(self) -> Codes:
        """The code of an exactly slowest network, (tables,)."""
        return self._follow(self._extremes(-1.0), -1.0)

    def _follow(self, ahead: Sequence[Floats], sign: float) -> Codes:
        state, code = 0, np.zeros(len(self.tables), self.dtype)
        for number, table in enumerate(self.tables):
            rows = slice(table.first[state], table.first[state + 1])
            total = sign * table.cost[rows] + ahead[number + 1][table.after[rows]]
            code[number] = table.first[state] + int(total.argmin())
            state = int(table.after[code[number]])
        return code

    @cached_property
    def fastest_ms(self) -> float:
        """The latency of the fastest network, in ms."""
        return float(self.predict_many(self.fastest[:, None])[0])

    @cached_property
    def slowest_ms(self) -> float:
        """The latency of the slowest network, in ms."""
        return float(self.predict_many(self.slowest[:, None])[0])

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest type that holds every row's number."""
        return np.uint16 if max(table.rows for table in self.tables) <= 1 << 16 else np.uint32

    def predict_many(self, codes: Codes) -> Floats:
        """Return the latencies, (N,) in ms, of valid codes, (tables, N)."""
        total = np.empty(codes.shape[1])
        costs = [table.cost for table in self.tables]
        index = np.empty(min(CHUNK, codes.shape[1]), np.intp)
        for start in range(0, codes.shape[1], CHUNK):
            part = total[start : start + CHUNK]
            rows = index[: len(part)]
            rows[...] = codes[0, start : start + CHUNK]
            part[...] = costs[0].take(rows)
            for number in range(1, len(costs)):
                rows[...] = codes[number, start : start + CHUNK]
                part += costs[number].take(rows)
        return total

    def encode(self, choices: Choices) -> Codes:
        """Return the code, (tables,), of choices. Raises SpaceError as `Space.decode`."""
        return self.code_of(self.space.decode(choices))

    def code_of(self, arch: Architecture) -> Codes:
        """Return the code, (tables,), of an architecture in any spelling. Raises SpaceError where it is not inside."""
        return self._folded(np.asarray(self.lattice.path(arch), np.intp)[:, None])[:, 0]

    def decode(self, code: ArrayLike) -> dict[str, Scalar]:
        """Return active choices of the network of a code, (tables,); encoding them gives the code again.

        Raises SpaceError for a code that is no path: wrong length, a row of another state, a row that is none.
        """
        return choices_for(self.space, self.architecture(code))

    def architecture(self, code: ArrayLike) -> Architecture:
        """Return the canonical architecture of a code, (tables,). Raises SpaceError as `decode`."""
        rows = np.atleast_1d(np.asarray(code, np.intp)).tolist()
        if len(rows) != len(self.tables):
            raise SpaceError(f"{self.space.name}: a code has {len(self.tables)} numbers: {len(rows)}")
        state, steps = 0, []
        for table, row in zip(self.tables, rows, strict=True):
            low, high = int(table.first[state]), int(table.first[state + 1])
            if not low <= row < high:
                raise SpaceError(f"{self.space.name}: a code's number must lie in {low} to {high - 1} here: {row}")
            state = int(table.after[row])
            steps += table.steps[:, row].tolist()
        return self.lattice.architecture(steps)

    def encode_many(self, encodings: ArrayLike) -> Codes:
        """Return the codes, (tables, N), of N encodings that `Space.encode` gave, (N, choices), -1 for inactive.

        Raises SpaceError for an index that the choice does not have.
        """
        return self._folded(_paths(self.lattice, np.asarray(encodings, np.intp)))

    def _folded(self, paths: Integers) -> Codes:
        """Return codes, (tables, N), for the rows of every place, (places, N)."""
        parts = np.split(paths, np.cumsum([len(table.steps) for table in self.tables])[:-1])
        rows = [table.row(list(part)) for table, part in zip(self.tables, parts, strict=True)]
        return np.stack(rows).astype(self.dtype)


def tabulate_costs(space: Space, cost: Cost, constant: float = 0.0) -> SpaceCosts:
    """Return `space` with `cost` of each layer, and `constant` of each network, in ms; either may be negative.

    Raises SpaceError where a layer cannot be built, ValueError for a cost that is not finite, and what `cost` raises.
    """
    return tabulate_automaton(unroll(space), cost, constant)


def tabulate_automaton(lattice: SpaceAutomaton, cost: Cost, constant: float = 0.0) -> SpaceCosts:
    """Return a space that is laid out already with another cost; a network's code is the same under every cost."""
    known: dict[Any, float] = {}

    def cached(layer: Any) -> float:
        key = (layer.spec, layer.in_shape)
        if key not in known:
            known[key] = float(cost(layer))
        return known[key]

    tables = [_table(place, segment, cached) for place, segment in enumerate(lattice.segments)]
    tables[0].cost[...] += constant
    if not all(np.isfinite(table.cost).all() for table in tables):
        raise ValueError("a layer's cost must be finite")
    return SpaceCosts(lattice, tuple(fold(tables)))


def _table(place: int, segment: LayerPosition, cost: Cost) -> Table:
    first = np.cumsum([0, *map(len, segment.steps)]).astype(np.intp)
    after = np.array([step.after for step in segment.rows], np.intp)
    costs = np.array([cost(step.layer) if step.layer else 0.0 for step in segment.rows], np.float64)
    return Table(segment.slot, first, after, costs, np.arange(len(after), dtype=np.int32)[None], ())


def fold(tables: Sequence[Table]) -> list[Table]:
    """Join neighbours of one stage while they stay small, and any whose product is no larger than one of them."""
    folded = [tables[0]]
    for table in tables[1:]:
        last = folded[-1]
        counts = np.diff(table.first)[last.after]
        rows = int(counts.sum())
        per_state = int(np.add.reduceat(counts, last.first[:-1]).max())
        small = last.slot == table.slot and per_state <= ROWS_PER_STATE and rows <= ROWS_PER_TABLE
        if small or rows <= max(last.rows, table.rows):
            folded[-1] = _joined(last, table, counts)
        else:
            folded.append(table)
    return folded


def _joined(left: Table, right: Table, counts: Integers) -> Table:
    """Return both as one; `counts` are the rows of `right` that may follow each row of `left`."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    before = np.repeat(np.arange(left.rows), counts)
    shift = starts[:-1] - right.first[left.after]
    behind = np.arange(starts[-1]) - shift[before]
    return Table(
        right.slot if right.rows > left.rows else left.slot,
        starts[left.first],
        right.after[behind],
        left.cost[before] + right.cost[behind],
        np.vstack([left.steps[:, before], right.steps[:, behind]]),
        (*left.shifts, shift),
    )


def _paths(lattice: SpaceAutomaton, encodings: Integers) -> Integers:
    """Return the row of each place, (places, N), for encodings, (N, choices)."""
    space = lattice.space
    sizes = np.array([len(values) for values in space.choices.values()], np.intp)
    if encodings.ndim != 2 or encodings.shape[1] != len(sizes):
        raise SpaceError(f"{space.name}: encodings must be (N, {len(sizes)}): {encodings.shape}")
    if ((encodings < -1) | (encodings >= sizes)).any():
        raise SpaceError(f"{space.name}: an encoding holds the index of a value that its choice does not have")
    paths = np.empty((len(lattice.segments), len(encodings)), np.intp)
    states = np.zeros(len(encodings), np.intp)
    for slot in range(-1, len(space.stages) + 1):
        places = [place for place, segment in enumerate(lattice.segments) if segment.slot == slot]
        name = "resolution" if slot < 0 else (*space.stages, space.head)[slot].name
        asked = [at for at, key in enumerate(space.choices) if key == name or key.startswith(f"{name}.")]
        given = np.column_stack([states, encodings[:, asked]])
        first, which = _distinct(given, (1, *(sizes[asked] + 1)))
        known = lattice.walked.setdefault(slot, {})
        walked = []
        for row in map(tuple, given[first].tolist()):
            if row not in known:
                known[row] = _slot_rows(lattice, places, row, asked)
            walked.append(known[row])
        paths[places] = np.array([rows for rows, _ in walked], np.intp).reshape(len(walked), -1).T[:, which]
        states = np.array([after for _, after in walked], np.intp)[which]
    return paths


def _distinct(rows: Integers, widths: Sequence[int]) -> tuple[Integers, Integers]:
    """Return where each distinct row stands first, and which of them each row, (N, columns), is.

    Entries lie in [-1, width - 1), those of the first column are not negative and may be of any size.
    """
    if prod(map(int, widths)) * (int(rows[:, 0].max(initial=0)) + 1) < 1 << 62:
        number = rows[:, 0].copy()
        for column, width in enumerate(widths[1:], 1):
            number = number * width + rows[:, column] + 1
        _, first, which = np.unique(number, return_index=True, return_inverse=True)
    else:
        _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, which.reshape(-1)


def _slot_rows(
    lattice: SpaceAutomaton, places: Sequence[int], row: Sequence[int], asked: Sequence[int]
) -> tuple[list[int], int]:
    """Return the rows of a slot's places, and the state after them, for [state, index of each choice asked]."""
    space, (state, *indices) = lattice.space, row
    keys = list(space.choices)
    choices = {keys[at]: space.choices[keys[at]][index] for at, index in zip(asked, indices, strict=True) if index >= 0}

    def given(key: str, _: Any) -> Scalar:
        if key not in choices:
            raise SpaceError(f"{space.name}: the choice '{key}' is missing")
        return choices[key]

    pick = ask_once(given, {})
    slot = lattice.segments[places[0]].slot if places else RESOLUTION
    if slot == RESOLUTION:
        chosen = [space.resolution.index(int(pick("resolution", space.resolution)))] if places else []
        return chosen, lattice.segments[0].rows[chosen[0]].after if places else state
    specs = iter((*space.stages, space.head)[slot].layers(pick))
    rows: list[int] = []
    for place in places:
        segment, spec = lattice.segments[place], next(specs, None)
        layer = next((step.layer for step in segment.steps[state] if step.layer), None)
        canonical = traced(spec, layer.in_shape).spec if spec and layer else None
        rows.append(segment.row_of[state, canonical])
        state = segment.rows[rows[-1]].after
    return rows, state
