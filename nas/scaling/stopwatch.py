"""What whole networks take on a device: measured in sessions that add up, or predicted by a table of another device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.device import LOCAL, open_worker
from nas.latency import LatencyTable, Predictor
from nas.profiler import table_header, time_networks
from nas.progress import Reporter
from nas.table_rows import CALIBRATION, MeasuredNetwork

SESSION = 24
"""Visits of each network in one session, in three passes."""
NETWORKS = "networks.jsonl"


class Stopwatch(Protocol):
    """Tells latencies of networks; `is_measured` tells whether they are the device's own."""

    is_measured: bool
    place: str

    def session(self, archs: Sequence[Architecture]) -> None:
        """Time networks beside each other, once more."""

    def sessions(self, arch: Architecture) -> int:
        """Return in how many sessions a network was."""

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that was in a session."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the latencies are of."""


class Timed:
    """Networks exported here and measured on the device, all visits kept in a latency table of whole networks.

    A latency is what all visits of all networks say together (`nas.estimate`): the machine's speed changes between
    sessions, and networks of one session share it. The table is the run's: a command that was killed goes on with it.
    """

    is_measured = True

    def __init__(self, folder: Path, runtime: str, threads: int, device: str = LOCAL, reporter: Reporter | None = None):
        self._runtime, self._threads, self._device = runtime, threads, device
        self._reporter = reporter or Reporter(quiet=True)
        header = table_header(runtime, threads, device)
        self.table = LatencyTable.open(folder / NETWORKS, header)
        self.table.check_same(header, "give another --run")
        self.place = header.get("host") or "this device"

    def session(self, archs: Sequence[Architecture]) -> None:
        """Measure networks beside each other; what is measured is written pass by pass."""
        worker = open_worker(self._device, self._runtime, self._threads, self._reporter.say)
        time_networks([_row(arch) for arch in archs], self.table, SESSION, worker, self._reporter)

    def sessions(self, arch: Architecture) -> int:
        """Return in how many sessions a network was, whole ones."""
        return self.table.visits(_row(arch)) // SESSION

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that was in a session."""
        return self.table.network_ms(_row(arch))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the latencies are of."""
        return self.table.header


class Predicted:
    """Networks as a latency table of a device that is not here predicts them. Raises TableError beyond its rows."""

    is_measured = False

    def __init__(self, predictor: Predictor, place: str):
        self._predictor, self.place = predictor, place

    def session(self, archs: Sequence[Architecture]) -> None:
        """Nothing is to be measured; raises TableError, naming the layer and the nearest row, where one is missing."""
        for arch in archs:
            self._predictor.predict(arch)

    def sessions(self, arch: Architecture) -> int:
        """Return enough: a prediction does not change."""
        return 2

    def ms(self, arch: Architecture) -> float:
        """Return the predicted latency in ms."""
        return self._predictor.predict(arch)

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the latencies are of."""
        return self._predictor.table.header


def _row(arch: Architecture) -> MeasuredNetwork:
    return MeasuredNetwork("scaling", CALIBRATION, arch)
