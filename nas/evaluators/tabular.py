"""A table of accuracies as the evaluator: public benchmarks, and one's own past results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.evaluators.accuracy_table import read_accuracies
from nas.evaluators.base import EvaluatorContext
from nas.networks.network import canonical
from nas.training.loop import TrainingError


class Tabular:
    """Accuracies of a CSV or Parquet file, or of an earlier run: `--accuracies`."""

    def __init__(self, setup: EvaluatorContext):
        self._table = read_accuracies(_source(setup), setup.space)

    @staticmethod
    def epochs(setup: EvaluatorContext) -> int | None:
        """Return how many fidelities the table has, None where it has one only. Raises DataError."""
        fidelities = read_accuracies(_source(setup), setup.space).fidelities
        return len(fidelities) if len(fidelities) > 1 else None

    @property
    def deterministic(self) -> bool:
        """Whether the table is of one seed."""
        return all(len(fidelity) == 1 for fidelity in self._table.fidelities)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the file, and what it holds."""
        table = self._table
        return {
            "evaluator": "tabular",
            "source": str(table.path),
            "architectures": len(table.rows),
            "columns": [list(fidelity) for fidelity in table.fidelities],
            "unit": "percent" if table.in_percent else "fraction",
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the accuracy at each fidelity, the cheapest first; `seed` modulo their number says which of several.

        Raises TrainingError where the table lacks the architecture, with the nearest that it has.
        """
        digest = canonical(arch).digest
        row = self._table.rows.get(digest)
        if row is None:
            raise TrainingError(f"{digest} is not in {self._table.path}{self._table.nearest(canonical(arch))}")
        for accuracies in row.accuracies:
            yield accuracies[seed % len(accuracies)]


def _source(setup: EvaluatorContext) -> Path:
    if setup.source is None:
        raise UsageError("--evaluator tabular: needs --accuracies FILE")
    return setup.source
