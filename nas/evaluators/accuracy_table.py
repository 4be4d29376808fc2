"""Accuracy tables: accuracies of architectures, read from CSV, Parquet, or the results of an earlier search.

Each row describes one architecture, in one of two ways: by its choices, with a column for each key of the space
("stage3.kernel_size", empty if inactive), or by the column `architecture`, which holds a digest or JSON.

The column `accuracy` holds its accuracy. Several seeds have the columns `accuracy_seed0`, `accuracy_seed1` (or
`accuracy_0`, ...). Accuracies after 4 or 12 epochs have the columns `accuracy@4`, `accuracy@12`, which can be combined
with seeds: `accuracy@4_seed0`.

All accuracies of a file are percent if more than half of them are above 1, and fractions if none is.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import DataError, RunError, SpaceError
from nas.networks.network import canonical
from nas.spaces.search_space import Searched
from nas.study.study import RESULT, read_trials
from nas.study.trial_store import find
from nas.utils.registry import closest

ARCHITECTURE = "architecture"
_ACCURACY = re.compile(r"accuracy(?:@(\d+))?(?:_(?:seed)?(\d+))?")
_DIGEST = re.compile(r"[0-9a-f]{16}")
Cells = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        place: Its place in the file, such as "row 2".
        accuracies: The accuracies in [0, 1], one tuple for each fidelity with one value for each seed.
        architecture: The architecture, or None if the row contains only its digest.
    """

    place: str
    accuracies: tuple[tuple[float, ...], ...]
    architecture: Architecture | None = None


@dataclass(frozen=True)
class AccuracyTable:
    """The contents of a file.

    Attributes:
        path: The file or folder.
        fidelities: The columns of each fidelity, cheapest first, ordered by seed.
        in_percent: Whether the file contains percent.
        rows: The rows by digest of the architecture.
    """

    path: Path
    fidelities: tuple[tuple[str, ...], ...]
    in_percent: bool
    rows: dict[str, Row]

    def nearest(self, arch: Architecture) -> str:
        """Describe the row whose architecture differs from `arch` in the fewest layers, or return ""."""
        mine = _count_layers(arch)
        others = [(row.place, _count_layers(row.architecture)) for row in self.rows.values() if row.architecture]
        if not others:
            return ""
        place, layers = min(others, key=lambda other: ((mine - other[1]) + (other[1] - mine)).total())
        different = ", ".join(sorted((layers - mine).keys())[:2])
        return f"; the nearest is {place}" + (f" with {different}" if different else "")


def read_accuracies(path: Path, space: Searched) -> AccuracyTable:
    """Read a table of accuracies.

    Args:
        path: A .csv or .parquet file, the result.json of a search, or a run folder.
        space: The space whose choices the table uses.

    Raises:
        DataError: The table is invalid. The message names the first error.
    """
    lines = list(_lines(path, space))
    if not lines:
        raise DataError("contains no rows", where=path)
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
            raise DataError(str(error), where=f"{path}, {place}") from error
        unit = 100 if in_percent else 1
        accuracies = tuple(tuple(numbers[place][name] / unit for name in fidelity) for fidelity in fidelities)
        known = rows.setdefault(digest, Row(place, accuracies, arch))
        if known.accuracies != accuracies:
            rule = f"is the same network as {known.place} ({digest}), but has different accuracies"
            raise DataError(rule, where=f"{path}, {place}")
    return AccuracyTable(path, fidelities, in_percent, rows)


def metric_of(path: Path, default: str = "accuracy") -> str:
    """Return the metric of a table: that of the search that a run folder or result.json holds, else `default`."""
    try:
        if path.is_dir():
            return str((find(path).attributes().get("settings") or {}).get("metric", "accuracy"))
        if path.suffix == ".json":
            return str(json.loads(path.read_text(encoding="utf-8")).get("metric", "accuracy"))
    except (RunError, OSError, ValueError, AttributeError):
        pass  # `read_accuracies` reports what is wrong
    return default


def _lines(path: Path, space: Searched) -> Iterator[tuple[str, Cells]]:
    """Yield the place of each row and its cells by column, as text."""
    if not path.exists():
        raise DataError("no such file or folder", where=path)
    if path.is_dir():
        return _read_run(path, space)
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".json": _read_result}
    if path.suffix not in readers:
        raise DataError("a table of accuracies must be .csv, .parquet, a run folder or its result.json", where=path)
    return readers[path.suffix](path)


def _read_csv(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            for name, count in Counter(columns).items():
                if count > 1:
                    raise DataError(f"the column occurs {count} times", where=path, value=name)
            for cells in reader:
                place = f"row {reader.line_num}"
                if cells and len(cells) != len(columns):
                    rule = f"has {len(cells)} cells, but the header has {len(columns)}"
                    raise DataError(rule, where=f"{path}, {place}")
                if cells:
                    yield place, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=path) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("Parquet needs pyarrow: pip install 'hwnas[parquet]'", where=path) from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({str(error).splitlines()[0]})", where=path) from error
    for index, row in enumerate(rows, 1):
        yield f"row {index}", {name: "" if value is None else str(value) for name, value in row.items()}


def _read_result(path: Path) -> Iterator[tuple[str, Cells]]:
    try:
        for candidate in json.loads(path.read_text(encoding="utf-8"))["candidates"]:
            if candidate.get("stopped_at") is not None:  # not its final accuracy
                continue
            cells = {ARCHITECTURE: candidate["architecture"], "accuracy": repr(float(candidate["accuracy"]))}
            yield f"trial {candidate['number']}", cells
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not the {RESULT} of a search ({type(error).__name__}: {error})", where=path) from error


def _read_run(folder: Path, space: Searched) -> Iterator[tuple[str, Cells]]:
    """Read the trials of a run folder, including interrupted runs."""
    try:
        trials = read_trials(folder, space)
    except RunError as error:
        raise DataError(str(error)) from error
    for trial in trials:
        if trial.stopped_at is None:
            yield f"trial {trial.number}", {ARCHITECTURE: trial.digest, "accuracy": repr(trial.metrics.accuracy)}


def _fidelities(path: Path, columns: Sequence[str], space: Searched) -> tuple[tuple[str, ...], ...]:
    """Return the accuracy columns by fidelity and seed, and check that all other columns describe the architecture."""
    found: dict[float, dict[int, str]] = {}
    for name in columns:
        if match := _ACCURACY.fullmatch(name):
            epochs, seed = float(match[1] or math.inf), int(match[2] or 0)
            other = found.setdefault(epochs, {}).setdefault(seed, name)
            if other != name:
                rule = f"has the same fidelity and seed as the column '{other}'"
                raise DataError(rule, where=path, value=name)
        elif name != ARCHITECTURE and name not in space.choices:
            known = [*space.choices, ARCHITECTURE, "accuracy"]
            raise DataError("unknown column", where=path, value=name, nearest=_did_you_mean(name, known))
    if not found:
        raise DataError("has no column 'accuracy' (or 'accuracy_seed0', 'accuracy@4', ...)", where=path)
    choices = [name for name in columns if name in space.choices]
    if ARCHITECTURE in columns and choices:
        rule = f"cannot have both the column '{ARCHITECTURE}' and choices"
        raise DataError(rule, where=path, value=choices[0])
    return tuple(tuple(name for _, name in sorted(found[epochs].items())) for epochs in sorted(found))


def _number(path: Path, place: str, name: str, cells: Cells) -> float:
    text = cells[name]
    try:
        value = float(text)
    except ValueError:
        raise DataError("must be a number", where=f"{path}, {place}", key=name, value=text) from None
    if not 0 <= value <= 100:
        rule = "must be in [0, 1], or in [0, 100] as percent"
        raise DataError(rule, where=f"{path}, {place}", key=name, value=value)
    return value


def _in_percent(path: Path, numbers: Mapping[str, Mapping[str, float]]) -> bool:
    """Return whether the file contains percentages. Raises DataError if only a few values are above 1."""
    above = [(place, name, value) for place, row in numbers.items() for name, value in row.items() if value > 1]
    count = sum(len(row) for row in numbers.values())
    if above and len(above) <= count / 2:
        place, name, value = above[0]
        rule = "must be in [0, 1], like most values of the file"
        raise DataError(rule, where=f"{path}, {place}", key=name, value=value)
    return bool(above)


def _architecture(cells: Cells, columns: Sequence[str], space: Searched) -> tuple[str, Architecture | None]:
    """Return the digest of a row's network, and the network unless the row only has a digest. Raises SpaceError."""
    if ARCHITECTURE in columns:
        text = cells[ARCHITECTURE]
        if _DIGEST.fullmatch(text):
            return text, None
        try:
            data = json.loads(text)
        except ValueError:
            raise SpaceError("must be 16 hex digits or JSON", key=ARCHITECTURE, value=text) from None
        arch = canonical(Architecture.from_dict(data))
    else:
        choices = {key: _value(key, cells[key], values) for key, values in space.choices.items() if cells.get(key)}
        arch = canonical(space.decode(choices))
    return arch.digest, arch


def _value(key: str, text: str, values: Sequence[Scalar]) -> Scalar:
    """Return the value that a cell spells: "3" and "3.0" match 3, "True" and "true" match True."""
    for value in values:
        spelled: Any = str(value)
        if text.lower() == spelled.lower() if isinstance(value, bool) else text == spelled:
            return value
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and _as_float(text) == value:
            return value
    names = list(map(str, values))
    rule = f"must be one of {', '.join(names)}"
    raise SpaceError(rule, key=key, value=text, nearest=_did_you_mean(text, names))


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = closest(name, known)
    return f"; did you mean '{close}'?" if close is not None else ""


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _count_layers(arch: Architecture) -> Counter[str]:
    """Return the layers of a network, described with their stages, and how often each occurs."""
    layers = [f"{spec} in stage {index}" for index, stage in enumerate(arch.stages) for spec in stage]
    layers += [f"{spec} in neck {index}" for index, stage in enumerate(arch.neck) for spec in stage]
    return Counter([f"{arch.input_size} px", *layers, f"{arch.head} as head"])
