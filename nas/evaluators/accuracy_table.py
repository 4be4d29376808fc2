"""Reads a table of accuracies: CSV, Parquet, or what an earlier search left. Whatever is wrong is one line.

One row is one architecture. Which it is, its choices say, a column for each key of the space
("stage3.kernel_size", empty where it is inactive), or the column `architecture`: a digest, or the JSON form.
`accuracy` is its accuracy; `accuracy_seed0`, `accuracy_seed1` (or `accuracy_0`, ...) those of several seeds, and
`accuracy@4`, `accuracy@12` those after so many epochs, which also go with seeds: `accuracy@4_seed0`.

Accuracies are fractions where none in the file is above 1, and percent where one is.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import DataError, RunError, SpaceError
from nas.networks.network import canonical
from nas.spaces.search_space import Searched
from nas.study.study import RESULT, read_trials
from nas.utils.registry import nearest

ARCHITECTURE = "architecture"
_ACCURACY = re.compile(r"accuracy(?:@(\d+))?(?:_(?:seed)?(\d+))?")
_DIGEST = re.compile(r"[0-9a-f]{16}")
Cells = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One architecture: where it stands, its accuracies in [0, 1] by fidelity and seed; None where only a digest is."""

    place: str
    accuracies: tuple[tuple[float, ...], ...]
    architecture: Architecture | None = None


@dataclass(frozen=True)
class AccuracyTable:
    """The rows by digest. `fidelities` names the columns of each fidelity, the cheapest first, seeds in order."""

    path: Path
    fidelities: tuple[tuple[str, ...], ...]
    in_percent: bool
    rows: dict[str, Row]

    def nearest(self, arch: Architecture) -> str:
        """Return the row that differs from `arch` in the fewest layers, in words; "" where rows have digests only."""
        mine = _layers(arch)

        def distance(row: Row) -> int:
            theirs = _layers(row.architecture) if row.architecture else Counter()
            return sum((mine - theirs).values()) + sum((theirs - mine).values())

        rows = [row for row in self.rows.values() if row.architecture]
        if not rows:
            return ""
        row = min(rows, key=distance)
        there = ", ".join(sorted((_layers(row.architecture) - mine).keys())[:2]) if row.architecture else ""
        return f"; the nearest is {row.place}" + (f" with {there}" if there else "")


def read_accuracies(path: Path, space: Searched) -> AccuracyTable:
    """Return the table in `path`: .csv, .parquet, a run's result.json, or a run's folder.

    Raises DataError with file, row, column, value and rule, for the first thing that is wrong.
    """
    lines = list(_lines(path, space))
    if not lines:
        raise DataError(f"{path}: holds no rows")
    columns = list(lines[0][1])
    fidelities = _fidelities(path, columns, space)
    names = [name for fidelity in fidelities for name in fidelity]
    numbers = {place: {name: _number(path, place, name, cells) for name in names} for place, cells in lines}
    in_percent = _in_percent(path, numbers)
    rows: dict[str, Row] = {}
    for place, cells in lines:
        try:
            digest, arch = _architecture(cells, columns, space)
        except SpaceError as error:
            raise DataError(f"{path}, {place}: {error}") from error
        unit = 100 if in_percent else 1
        accuracies = tuple(tuple(numbers[place][name] / unit for name in fidelity) for fidelity in fidelities)
        known = rows.setdefault(digest, Row(place, accuracies, arch))
        if known.accuracies != accuracies:
            raise DataError(f"{path}, {place}: the same network as {known.place}, with other accuracies ({digest})")
    return AccuracyTable(path, fidelities, in_percent, rows)


def _lines(path: Path, space: Searched) -> Iterator[tuple[str, Cells]]:
    """Yield each row's place in words and its cells by column, as text."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        return _run(path, space)
    readers = {".csv": _csv, ".parquet": _parquet, ".json": _result}
    if path.suffix not in readers:
        raise DataError(f"{path}: a table of accuracies is a .csv, a .parquet, or a run's folder or result.json")
    return readers[path.suffix](path)


def _csv(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            for name, count in Counter(columns).items():
                if count > 1:
                    raise DataError(f"{path}: the column '{name}' stands {count} times")
            for cells in reader:
                place = f"row {reader.line_num}"
                if cells and len(cells) != len(columns):
                    raise DataError(f"{path}, {place}: has {len(cells)} cells, the header {len(columns)}")
                if cells:
                    yield place, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'hwnas[parquet]'") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    for index, row in enumerate(rows, 1):
        yield f"row {index}", {name: "" if value is None else str(value) for name, value in row.items()}


def _result(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        for candidate in json.loads(path.read_text(encoding="utf-8"))["candidates"]:
            if candidate.get("stopped_at") is not None:  # its accuracy is that of a rung
                continue
            cells = {ARCHITECTURE: candidate["architecture"], "accuracy": repr(float(candidate["accuracy"]))}
            yield f"trial {candidate['number']}", cells
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the {RESULT} of a search: {type(error).__name__}: {error}") from error


def _run(folder: Path, space: Searched) -> Iterator[tuple[str, Cells]]:
    """Read the study, which a search that was killed has too."""
    try:
        trials = read_trials(folder, space)
    except RunError as error:
        raise DataError(str(error)) from error
    for trial in trials:
        if trial.stopped_at is None:
            yield f"trial {trial.number}", {ARCHITECTURE: trial.digest, "accuracy": repr(trial.metrics.accuracy)}


def _fidelities(path: Path, columns: Sequence[str], space: Searched) -> tuple[tuple[str, ...], ...]:
    """Return the accuracy columns by fidelity and seed, and check that all others say which architecture it is."""
    found: dict[float, dict[int, str]] = {}
    for name in columns:
        if match := _ACCURACY.fullmatch(name):
            epochs, seed = float(match[1] or math.inf), int(match[2] or 0)
            other = found.setdefault(epochs, {}).setdefault(seed, name)
            if other != name:
                raise DataError(f"{path}: the columns '{other}' and '{name}' are the same fidelity and seed")
        elif name != ARCHITECTURE and name not in space.choices:
            known = nearest(name, [*space.choices, ARCHITECTURE, "accuracy"])
            raise DataError(f"{path}: unknown column '{name}'{known if 'mean' in known else ''}")
    if not found:
        raise DataError(f"{path}: has no column 'accuracy' (or 'accuracy_seed0', 'accuracy@4', ...)")
    choices = [name for name in columns if name in space.choices]
    if ARCHITECTURE in columns and choices:
        raise DataError(f"{path}: has a column '{ARCHITECTURE}' and choices ('{choices[0]}'): give one of them")
    return tuple(tuple(name for _, name in sorted(found[epochs].items())) for epochs in sorted(found))


def _number(path: Path, place: str, name: str, cells: Cells) -> float:
    text = cells[name]
    try:
        value = float(text)
    except ValueError:
        rule = "is missing" if not text else f"is not a number: '{text}'"
        raise DataError(f"{path}, {place}: {name} {rule}") from None
    if not 0 <= value <= 100:
        raise DataError(f"{path}, {place}: {name} must lie in [0, 1], or in [0, 100] as percent: {text}")
    return value


def _in_percent(path: Path, numbers: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the file is in percent. Raises DataError where few are above 1: that is no percent, but a mistake."""
    above = [(place, name, value) for place, row in numbers.items() for name, value in row.items() if value > 1]
    count = sum(len(row) for row in numbers.values())
    if above and len(above) <= count / 2:
        place, name, value = above[0]
        raise DataError(f"{path}, {place}: {name} must lie in [0, 1], as most of the file does: {value:g}")
    return bool(above)


def _architecture(cells: Cells, columns: Sequence[str], space: Searched) -> tuple[str, Architecture | None]:
    """Return the digest of a row's network, and the network where the row tells it. Raises SpaceError."""
    if ARCHITECTURE in columns:
        text = cells[ARCHITECTURE]
        if _DIGEST.fullmatch(text):
            return text, None
        try:
            data = json.loads(text)
        except ValueError:
            raise SpaceError(f"{ARCHITECTURE} is neither 16 hex digits nor JSON: '{text}'") from None
        arch = canonical(Architecture.from_dict(data))
    else:
        choices = {key: _value(key, cells[key], values) for key, values in space.choices.items() if cells.get(key)}
        arch = canonical(space.decode(choices))
    return arch.digest, arch


def _value(key: str, text: str, values: Sequence[Scalar]) -> Scalar:
    """Return which of the offered values a cell spells: 3 is also "3.0", true also "True"."""
    for value in values:
        spelled: Any = str(value)
        if text.lower() == spelled.lower() if isinstance(value, bool) else text == spelled:
            return value
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and _as_float(text) == value:
            return value
    raise SpaceError(f"{key} must be one of {', '.join(map(str, values))}: '{text}'{_close(text, values)}")


def _close(text: str, values: Sequence[Scalar]) -> str:
    known = nearest(text, map(str, values))
    return known if "mean" in known else ""


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _layers(arch: Architecture) -> Counter[str]:
    """Return the layers of a network, each with its place."""
    layers = [f"{spec} in stage {index}" for index, stage in enumerate(arch.stages) for spec in stage]
    return Counter([f"{arch.resolution} px", *layers, f"{arch.head} as head"])
