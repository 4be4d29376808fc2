"""Latencies of whole networks in the user's cache: a network is measured once for each device and runtime."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.errors import TableError
from nas.latency.profiler import default_table_path
from nas.latency.table import IDENTITY
from nas.spaces.identity import json_digest
from nas.utils.files import append_rows, exclusive
from nas.utils.paths import user_cache
from nas.utils.reporting import Reporter

FOLDER = "network_latencies"
Measure = Callable[[Sequence[Architecture]], Sequence[Latency]]
"""Measures whole networks on the device of the header."""


@dataclass
class NetworkLatencies:
    """The measured latencies of whole networks on one device with one runtime, version and number of threads.

    The file has JSON lines: a header, then one row for each network with its digest, which contains the resolution,
    the resolution itself, the latency and the date. The last row of a network counts.

    Attributes:
        path: The file.
        header: What decides speed: a header as `table_header` returns it.
        ms: The median latencies in ms by the digest of the network.
    """

    path: Path
    header: dict[str, Any]
    ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, header: dict[str, Any]) -> NetworkLatencies:
        """Return the cached latencies of a device. Raises TableError if the file is broken."""
        decides = {key: header.get(key) for key in (*IDENTITY, "host")}
        place = default_table_path(header)
        name = f"{place.stem}-{json_digest(decides)}.jsonl"
        found = cls(user_cache() / FOLDER / place.parent.name / name, decides)
        found._read()
        return found

    def _read(self) -> None:
        if not self.path.is_file():
            return
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")[1:-1]  # a crash may have cut off the last line
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"cannot be read: {error}", where=self.path) from error
        for number, line in enumerate(lines, start=2):
            try:
                row = json.loads(line)
                self.ms[str(row["architecture"])] = float(row["ms"])
            except (ValueError, KeyError, TypeError) as error:
                rule = f"not a measured network: {error!r}; delete the file to measure again"
                raise TableError(rule, where=f"{self.path}, line {number}") from error

    def measure(self, archs: Sequence[Architecture], measure: Measure) -> None:
        """Measure the networks that are not known yet, and write them to the file. Raises TableError."""
        missing = [arch for arch in {arch.digest: arch for arch in archs}.values() if arch.digest not in self.ms]
        if not missing:
            return
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found = list(zip(missing, measure(missing), strict=True))
        rows = [
            {"architecture": arch.digest, "resolution": arch.input_size, "ms": latency.median, "p10": latency.p10,
             "p90": latency.p90, "date": date}
            for arch, latency in found
        ]  # fmt: skip
        try:
            append_rows(self.path, self.header, rows)
        except OSError as error:
            raise TableError(f"cannot be written: {error}", where=self.path) from error
        self.ms |= {arch.digest: latency.median for arch, latency in found}

    @contextlib.contextmanager
    def locked(self, reporter: Reporter) -> Iterator[None]:
        """Wait until no other process measures into the file, and read what it has measured."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(PermissionError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                report_wait = partial(reporter.say, f"{self.path}: waiting for another process that measures into it")
                held.enter_context(exclusive(self.path.with_name(f".{self.path.name}.lock"), report_wait))
            self._read()
            yield
