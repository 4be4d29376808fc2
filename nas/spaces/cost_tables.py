"""Cost tables: the layers of a space and their costs as arrays, which predict millions of networks per second.

A network's cost is `constant + sum(cost(layer))`. A cost is anything that adds up over layers: latency in ms, MACs,
parameters, energy. Adjacent layer positions are folded into one table as long as the table stays small; a stage with
shared choices becomes a single table. A network's code is one row number per table, and its cost is the sum of
those rows' costs.
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
from nas.networks.network import placed, slot_role
from nas.spaces.automaton import RESOLUTION, Cost, LayerPosition, SpaceAutomaton, choices_for, unroll
from nas.spaces.search_space import Space, ask_once

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Codes = NDArray[Any]
"""Unsigned integers: the row of each table, (tables,) for one network or (tables, N) for N networks."""

ROWS_PER_STATE = 1024
"""Positions of one stage are folded up to this many rows per state, so that sampling weights stay in the cache."""
ROWS_PER_TABLE = 1 << 15
CHUNK = 1 << 14
"""Networks predicted at once: their codes, indices and sums fit a second-level cache."""


@dataclass(frozen=True)
class Table:
    """One or more folded layer positions. The rows of state s are first[s] to first[s + 1] - 1, all different.

    Attributes:
        slot: The stage's number, as in `LayerPosition`.
        first: The first row of each state, (states + 1,).
        after: The state after each row, (rows,).
        cost: The cost of each row, (rows,).
        steps: The row of each folded position, (positions, rows).
        shifts: One array for each position but the last; `row` uses them to find a row from its positions' rows.
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
        """The number of states before this table."""
        return len(self.first) - 1

    def row(self, steps: Sequence[Integers]) -> Integers:
        """Return the rows, (N,), of this table whose positions have the rows `steps`, (positions, N)."""
        row = steps[0]
        for shift, step in zip(self.shifts, steps[1:], strict=True):
            row = shift[row] + step
        return row


@dataclass(frozen=True)
class SpaceCosts:
    """A space with costs. Every valid code is a distinct network, and every network of the space has one code.

    Networks are distinct if their canonical architectures differ. The same layers split differently between two
    stages are two networks.

    Attributes:
        automaton: The space, layer by layer.
        tables: The cost tables in the order of the layers.
    """

    automaton: SpaceAutomaton
    tables: tuple[Table, ...]

    @property
    def space(self) -> Space:
        """The space."""
        return self.automaton.space

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
    def min_remaining(self) -> tuple[Floats, ...]:
        """The smallest cost from each state to the end, one array, (states,), per table and one after the last."""
        return self._extremes(1.0)

    def _extremes(self, sign: float) -> tuple[Floats, ...]:
        ahead = [np.zeros(int(self.tables[-1].after.max()) + 1)]
        for table in reversed(self.tables):
            ahead.append(np.minimum.reduceat(sign * table.cost + ahead[-1][table.after], table.first[:-1]))
        return tuple(reversed(ahead))

    @cached_property
    def cheapest(self) -> Codes:
        """The code, (tables,), of a network with the exactly smallest cost."""
        return self._follow(self.min_remaining, 1.0)

    @cached_property
    def costliest(self) -> Codes:
        """The code, (tables,), of a network with the exactly largest cost."""
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
    def min_cost(self) -> float:
        """The smallest cost of a network."""
        return float(self.costs(self.cheapest[:, None])[0])

    @cached_property
    def max_cost(self) -> float:
        """The largest cost of a network."""
        return float(self.costs(self.costliest[:, None])[0])

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest integer type that holds every row number."""
        return np.uint16 if max(table.rows for table in self.tables) <= 1 << 16 else np.uint32

    def costs(self, codes: Codes) -> Floats:
        """Return the costs, (N,), of valid codes, (tables, N)."""
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

    def decode(self, code: ArrayLike) -> dict[str, Scalar]:
        """Return active choices that give the network of a code, (tables,). Raises SpaceError as `architecture`."""
        return choices_for(self.space, self.architecture(code))

    def architecture(self, code: ArrayLike) -> Architecture:
        """Return the canonical architecture of a code, (tables,).

        Raises:
            SpaceError: The code has the wrong length, or a row does not follow from the rows before it.
        """
        rows = np.atleast_1d(np.asarray(code, np.intp)).tolist()
        if len(rows) != len(self.tables):
            raise SpaceError(f"a code must have {len(self.tables)} numbers", where=self.space.name, value=len(rows))
        state, steps = 0, []
        for table, row in zip(self.tables, rows, strict=True):
            low, high = int(table.first[state]), int(table.first[state + 1])
            if not low <= row < high:
                raise SpaceError(f"must be from {low} to {high - 1}", where=self.space.name, key="code", value=row)
            state = int(table.after[row])
            steps += table.steps[:, row].tolist()
        return self.automaton.architecture(steps)

    def encode_many(self, encodings: ArrayLike) -> Codes:
        """Return the codes of N networks.

        Args:
            encodings: The index of each choice's value, (N, choices), -1 where the choice is inactive.

        Returns:
            The codes, (tables, N).

        Raises:
            SpaceError: An index is out of range, or an active choice has none.
        """
        paths = _paths(self.automaton, np.asarray(encodings, np.intp))
        parts = np.split(paths, np.cumsum([len(table.steps) for table in self.tables])[:-1])
        rows = [table.row(list(part)) for table, part in zip(self.tables, parts, strict=True)]
        return np.stack(rows).astype(self.dtype)


def tabulate_costs(space: Space, cost: Cost, constant: float = 0.0) -> SpaceCosts:
    """Return the cost tables of `space`.

    Args:
        space: The space.
        cost: The cost of a layer; may be negative.
        constant: A cost added to every network; may be negative.

    Raises:
        SpaceError: A layer cannot be built.
        ValueError: A cost is not finite. Exceptions of `cost` pass through.
    """
    return tabulate_automaton(unroll(space), cost, constant)


def tabulate_automaton(automaton: SpaceAutomaton, cost: Cost, constant: float = 0.0) -> SpaceCosts:
    """Return the cost tables of an unrolled space. A network's code is the same for every cost. Raises ValueError."""
    known: dict[Any, float] = {}

    def cached(layer: Any) -> float:
        key = (layer.spec, layer.in_shape)
        if key not in known:
            known[key] = float(cost(layer))
        return known[key]

    tables = [_table(position, cached) for position in automaton.positions]
    tables[0].cost[...] += constant
    if not all(np.isfinite(table.cost).all() for table in tables):
        raise ValueError("a layer's cost must be finite")
    return SpaceCosts(automaton, tuple(fold(tables)))


def _table(position: LayerPosition, cost: Cost) -> Table:
    first = np.cumsum([0, *map(len, position.steps)]).astype(np.intp)
    after = np.array([step.after for step in position.rows], np.intp)
    costs = np.array([sum(map(cost, step.layers)) for step in position.rows], np.float64)
    return Table(position.slot, first, after, costs, np.arange(len(after), dtype=np.int32)[None], ())


def fold(tables: Sequence[Table]) -> list[Table]:
    """Join adjacent tables of one stage if the result is small, and any if the result is no larger than one of them."""
    folded = [tables[0]]
    for table in tables[1:]:
        last = folded[-1]
        counts = np.diff(table.first)[last.after]
        rows = int(counts.sum())
        per_state = int(np.add.reduceat(counts, last.first[:-1]).max())
        small = last.slot == table.slot and per_state <= ROWS_PER_STATE and rows <= ROWS_PER_TABLE
        if small or rows <= max(last.rows, table.rows):
            folded[-1] = _join(last, table, counts)
        else:
            folded.append(table)
    return folded


def _join(left: Table, right: Table, counts: Integers) -> Table:
    """Return one table for two adjacent ones. `counts` holds the number of `right` rows that follow each `left` row."""
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


def _paths(automaton: SpaceAutomaton, encodings: Integers) -> Integers:
    """Return the row of each layer position, (positions, N), for encodings, (N, choices)."""
    space = automaton.space
    sizes = np.array([len(values) for values in space.choices.values()], np.intp)
    if encodings.ndim != 2 or encodings.shape[1] != len(sizes):
        raise SpaceError(f"encodings must be (N, {len(sizes)})", where=space.name, value=encodings.shape)
    if ((encodings < -1) | (encodings >= sizes)).any():
        raise SpaceError("an encoding holds an index that is out of range for its choice", where=space.name)
    paths = np.empty((len(automaton.positions), len(encodings)), np.intp)
    states = np.zeros(len(encodings), np.intp)
    for slot in range(-1, len(space.slots)):
        places = [place for place, position in enumerate(automaton.positions) if position.slot == slot]
        name = "resolution" if slot < 0 else space.slots[slot].name
        columns = [column for column, key in enumerate(space.choices) if key == name or key.startswith(f"{name}.")]
        inputs = np.column_stack([states, encodings[:, columns]])
        first, inverse = _unique_rows(inputs, (1, *(sizes[columns] + 1)))
        cache = automaton.encoded.setdefault(slot, {})
        found = []
        for row in map(tuple, inputs[first].tolist()):
            if row not in cache:
                cache[row] = _slot_rows(automaton, places, row, columns)
            found.append(cache[row])
        paths[places] = np.array([rows for rows, _ in found], np.intp).reshape(len(found), -1).T[:, inverse]
        states = np.array([after for _, after in found], np.intp)[inverse]
    return paths


def _unique_rows(rows: Integers, widths: Sequence[int]) -> tuple[Integers, Integers]:
    """Return the first index of each distinct row, and the number, (N,), of the distinct row that each row equals.

    This is `np.unique(rows, axis=0)`, but faster for small entries.

    Args:
        rows: (N, columns). Entries are from -1 to width - 2; the first column is not negative and has no upper bound.
        widths: One number per column; the first is ignored.
    """
    if prod(map(int, widths)) * (int(rows[:, 0].max(initial=0)) + 1) < 1 << 62:
        number = rows[:, 0].copy()
        for column, width in enumerate(widths[1:], 1):
            number = number * width + rows[:, column] + 1
        _, first, inverse = np.unique(number, return_index=True, return_inverse=True)
    else:
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _slot_rows(
    automaton: SpaceAutomaton, places: Sequence[int], inputs: Sequence[int], columns: Sequence[int]
) -> tuple[list[int], int]:
    """Return the row of each of a stage's positions, and the state after them.

    Args:
        automaton: The space.
        places: The numbers of the stage's positions.
        inputs: The state before the stage, then the index of each of its choices, -1 where inactive.
        columns: The numbers of the stage's choices.
    """
    space, (state, *indices) = automaton.space, inputs
    keys = list(space.choices)
    pairs = ((keys[column], index) for column, index in zip(columns, indices, strict=True))
    choices = {key: space.choices[key][index] for key, index in pairs if index >= 0}

    def look_up(key: str, _: Any) -> Scalar:
        if key not in choices:
            raise SpaceError(f"the choice '{key}' is missing", where=space.name)
        return choices[key]

    pick = ask_once(look_up, {})
    slot = automaton.positions[places[0]].slot if places else RESOLUTION
    if slot == RESOLUTION:
        chosen = [space.resolution.index(int(pick("resolution", space.resolution)))] if places else []
        return chosen, automaton.positions[0].rows[chosen[0]].after if places else state
    specs = iter(space.slots[slot].layers(pick))
    of, _ = slot_role(slot, len(space.stages), len(space.neck))
    rows: list[int] = []
    for place in places:
        position, spec = automaton.positions[place], next(specs, None)
        canonical = placed(spec, position.maps[state], of=of).spec if spec else None
        rows.append(position.row_of[state, canonical])
        state = position.rows[rows[-1]].after
    return rows, state
