"""The stopwatch of a search with a total time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from nas.study.study import Study

SPENT = "spent"
"""The name under which a study stores the seconds of each part."""


@dataclass
class Stopwatch:
    """The seconds that each part of a search took, in this command and in those that were killed or interrupted.

    Attributes:
        study: Where they are stored.
        started: When this command began, by `time.monotonic`.
        spent: The seconds by the name of the part.
        begun: When the part that is under way began, by `time.monotonic`; None between parts.
    """

    study: Study
    started: float
    spent: dict[str, float] = field(default_factory=dict)
    begun: float | None = None

    @classmethod
    def of(cls, study: Study, started: float) -> Stopwatch:
        """Return the stopwatch of a study. Everything before now is a part called "table"."""
        watch = cls(study, started, dict(study.fact(SPENT) or {}))
        watch.add("table", time.monotonic() - started)
        return watch

    @property
    def total_s(self) -> float:
        """The seconds of all parts that have ended."""
        return sum(self.spent.values())

    @property
    def elapsed_s(self) -> float:
        """The seconds so far, those of the part that is under way included."""
        return self.total_s + (time.monotonic() - self.begun if self.begun is not None else 0.0)

    def add(self, part: str, seconds: float) -> None:
        """Add to a part and store it."""
        self.spent[part] = round(self.spent.get(part, 0.0) + seconds, 3)
        self.study.record_fact(SPENT, self.spent)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the search, also if it is interrupted."""
        self.begun = begun = time.monotonic()
        try:
            yield
        finally:
            self.begun = None
            self.add(name, time.monotonic() - begun)
