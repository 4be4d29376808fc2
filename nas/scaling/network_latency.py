"""What whole networks take on a device: measured in sessions that add up, or predicted by a table of another device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.devices.client import LOCAL, open_worker
from nas.latency.profiler import table_header, time_networks
from nas.latency.robust_estimation import estimate, linked
from nas.latency.rows import CALIBRATION, MeasuredNetwork
from nas.latency.table import LatencyPredictor, LatencyTable
from nas.utils.reporting import Reporter

VISITS, MOST_VISITS = 24, 96
"""Visits of each network in a session, in three passes; up to so many where the base is quick."""
LONG_MS = 2000.0
"""How long the calls of the base in a session should take together, for the machine's speed changes all the time."""
CALLS = 6
NETWORKS = "networks.jsonl"


class NetworkLatency(Protocol):
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


class MeasuredLatency:
    """Networks exported here and measured on the device, all visits kept in a latency table of whole networks.

    Each session of the table is a space of its own. The machine's speed changes between sessions: what a network takes
    is told by all sessions together, through the networks that they share (`nas.latency.robust_estimation.linked`).
    The table is the
    run's, its sessions are numbered by `purpose`: a command that was killed asks for the same sessions again, one after
    the other, and is told what they measured, and no more than that, so that it decides as it did.
    """

    is_measured = True

    def __init__(
        self, folder: Path, runtime: str, threads: int, device: str = LOCAL, reporter: Reporter | None = None,
        purpose: str = "session",
    ):  # fmt: skip
        self._runtime, self._threads, self._device = runtime, threads, device
        self._reporter = reporter or Reporter(quiet=True)
        header = table_header(runtime, threads, device)
        self.table = LatencyTable.open(folder / NETWORKS, header)
        self.table.check_same(header, "give another --run")
        self.place = header.get("host") or "this device"
        self._levels: dict[str, float] = {}
        self._purpose, self._asked = purpose, 0

    def session(self, archs: Sequence[Architecture]) -> None:
        """Measure networks beside each other, if the session was not measured before; it is written pass by pass."""
        visits, wanted = self._planned(archs), {arch.digest for arch in archs}
        recorded = self._recorded()
        place, whole = len(recorded), False
        for number in range(self._asked, len(recorded)):  # those of another command stand between
            known = {row.arch.digest for row in recorded[number]}
            is_done = min(map(self.table.sample_count, recorded[number])) >= visits
            if known == wanted if is_done else known <= wanted:
                place, whole = number, is_done
                break
        if not whole:
            self._measure(archs, f"{self._purpose} {place}", visits)
        self._asked = place + 1
        self._levels.clear()

    def _recorded(self) -> list[list[MeasuredNetwork]]:
        """Return the networks of each session for this purpose, in order."""
        found: dict[str, list[MeasuredNetwork]] = {}
        for row in self.table.networks:
            if row.space.rpartition(" ")[0] == self._purpose:
                found.setdefault(row.space, []).append(row)
        return list(found.values())

    def _told(self) -> list[MeasuredNetwork]:
        """Return the networks of the sessions that were asked for, and of those for other purposes."""
        own = {row.space for rows in self._recorded()[self._asked :] for row in rows}
        return [row for row in self.table.networks if row.space not in own]

    def _planned(self, archs: Sequence[Architecture]) -> int:
        """Return how often each network is visited in a session: the oftener the quicker they are known to be."""
        known = [self.ms(arch) for arch in archs if self.sessions(arch)]
        quickest = min(known, default=0.0)
        return min(MOST_VISITS, max(VISITS, round(LONG_MS / (CALLS * quickest)))) if quickest > 0 else VISITS

    def _measure(self, archs: Sequence[Architecture], name: str, visits: int) -> None:
        worker = open_worker(self._device, self._runtime, self._threads, self._reporter.say)
        rows = [MeasuredNetwork(name, CALIBRATION, arch) for arch in archs]
        time_networks(rows, self.table, visits, worker, self._reporter)

    def sessions(self, arch: Architecture) -> int:
        """Return in how many sessions a network was, those not counted that a kill cut short."""
        return sum(row.arch.digest == arch.digest and self.table.sample_count(row) >= VISITS for row in self._told())

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that was in a session."""
        if not self._levels:
            self._levels = linked(self._sessions())
        return self._levels[arch.digest]

    def _sessions(self) -> dict[str, dict[str, float]]:
        """Return what each network took in each session, by digest."""
        visits: dict[str, list[tuple[str, float, float]]] = {}
        for row in self._told():
            visits.setdefault(row.space, []).extend((row.arch.digest, at, ms) for at, ms in self.table.rows[row])
        return {
            name: estimate([digest for digest, _, _ in found], [at for _, at, _ in found], [ms for _, _, ms in found])
            for name, found in visits.items()
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the latencies are of."""
        return self.table.header


class PredictedLatency:
    """Networks as a latency table of a device that is not here predicts them. Raises TableError beyond its rows."""

    is_measured = False

    def __init__(self, predictor: LatencyPredictor, place: str):
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
