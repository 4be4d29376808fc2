"""The tabular evaluator: looks accuracies up in a table, such as a public benchmark or an earlier run."""

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
    """Looks accuracies up in a CSV or Parquet file, or in an earlier run (`--accuracies`)."""

    def __init__(self, context: EvaluatorContext):
        self._table = read_accuracies(_source(context), context.space)

    @staticmethod
    def epochs(context: EvaluatorContext) -> int | None:
        """Return the number of fidelities in the table, or None if there is only one. Raises DataError."""
        fidelities = read_accuracies(_source(context), context.space).fidelities
        return len(fidelities) if len(fidelities) > 1 else None

    @property
    def deterministic(self) -> bool:
        """Whether the table has only one seed."""
        return all(len(fidelity) == 1 for fidelity in self._table.fidelities)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the file and a summary of its contents."""
        table = self._table
        return {
            "evaluator": "tabular",
            "source": str(table.path),
            "architectures": len(table.rows),
            "columns": [list(fidelity) for fidelity in table.fidelities],
            "unit": "percent" if table.in_percent else "fraction",
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the accuracy in [0, 1] at each fidelity, cheapest first.

        Args:
            arch: The architecture.
            seed: Selects one of several accuracies: `seed` modulo their number.

        Raises:
            TrainingError: The table does not contain the architecture.
        """
        digest = canonical(arch).digest
        row = self._table.rows.get(digest)
        if row is None:
            raise TrainingError(f"{digest} is not in {self._table.path}{self._table.nearest(canonical(arch))}")
        for accuracies in row.accuracies:
            yield accuracies[seed % len(accuracies)]


def _source(context: EvaluatorContext) -> Path:
    if context.source is None:
        raise UsageError("needs --accuracies FILE", key="evaluator", value="tabular")
    return context.source
