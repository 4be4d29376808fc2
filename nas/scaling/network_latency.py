"""Latency of whole networks: measured on the device, or predicted by a latency table."""

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

MIN_VISITS, MAX_VISITS = 24, 96
"""Measurement rounds of each network in a session, in three passes; fast networks get more."""
SESSION_MS = 2000.0
"""Minimum total time of a network's calls in a session, because the machine's speed varies."""
CALLS_PER_VISIT = 6
NETWORKS_FILE = "networks.jsonl"


class NetworkLatency(Protocol):
    """A source of network latencies.

    Attributes:
        is_measured: Whether the latencies are measured on the device, and not predicted.
        place: The device's name.
    """

    is_measured: bool
    place: str

    def measure(self, archs: Sequence[Architecture]) -> None:
        """Measure the networks in one more session."""

    def session_count(self, arch: Architecture) -> int:
        """Return the number of sessions that measured a network."""

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that has been measured."""

    @property
    def settings(self) -> dict[str, Any]:
        """The device, runtime and protocol of the latencies."""


class MeasuredLatency:
    """Latencies measured on a device; all samples are kept in a latency table of whole networks in the run folder.

    Each session is a space of its own in the table. The machine's speed varies between sessions, so a latency is
    estimated from all sessions, which are linked by the networks that they share
    (`nas.latency.robust_estimation.linked`).

    Sessions are numbered by `purpose`. A command that was killed and restarted requests the same sessions in the same
    order. It reads their stored samples one session at a time, so it makes the same decisions again.

    Args:
        folder: The run folder.
        runtime: The runtime's name.
        threads: Threads of the runtime.
        device: The device's address.
        reporter: Reports progress; the default is silent.
        purpose: The name of the command's own sessions in the table.
    """

    is_measured = True

    def __init__(
        self,
        folder: Path,
        runtime: str,
        threads: int,
        device: str = LOCAL,
        reporter: Reporter | None = None,
        purpose: str = "session",
    ):
        self._runtime, self._threads, self._device = runtime, threads, device
        self._reporter = reporter or Reporter(quiet=True)
        header = table_header(runtime, threads, device)
        self.table = LatencyTable.open(folder / NETWORKS_FILE, header)
        self.table.check_same(header, "give another --run")
        self.place = header.get("host") or "this device"
        self._latency_ms: dict[str, float] = {}
        self._purpose, self._requested = purpose, 0

    def measure(self, archs: Sequence[Architecture]) -> None:
        """Measure the networks in one session, or reuse the stored session of an earlier run of this command."""
        visits, wanted = self._planned_visits(archs), {arch.digest for arch in archs}
        stored = self._stored_sessions()
        place, is_complete = len(stored), False
        for number in range(self._requested, len(stored)):  # skips the sessions of other commands
            digests = {row.arch.digest for row in stored[number]}
            is_done = min(map(self.table.sample_count, stored[number])) >= visits
            if digests == wanted if is_done else digests <= wanted:
                place, is_complete = number, is_done
                break
        if not is_complete:
            self._run_session(archs, f"{self._purpose} {place}", visits)
        self._requested = place + 1
        self._latency_ms.clear()

    def _stored_sessions(self) -> list[list[MeasuredNetwork]]:
        """Return the rows of each session of this purpose, in order."""
        sessions: dict[str, list[MeasuredNetwork]] = {}
        for row in self.table.networks:
            if row.space.rpartition(" ")[0] == self._purpose:
                sessions.setdefault(row.space, []).append(row)
        return list(sessions.values())

    def _visible_rows(self) -> list[MeasuredNetwork]:
        """Return the rows of all sessions, except this purpose's sessions that have not been requested yet."""
        later = {row.space for rows in self._stored_sessions()[self._requested :] for row in rows}
        return [row for row in self.table.networks if row.space not in later]

    def _planned_visits(self, archs: Sequence[Architecture]) -> int:
        """Return the visits of each network in a session: more if the fastest known network is fast."""
        known = [self.ms(arch) for arch in archs if self.session_count(arch)]
        fastest = min(known, default=0.0)
        if fastest <= 0:
            return MIN_VISITS
        return min(MAX_VISITS, max(MIN_VISITS, round(SESSION_MS / (CALLS_PER_VISIT * fastest))))

    def _run_session(self, archs: Sequence[Architecture], name: str, visits: int) -> None:
        worker = open_worker(self._device, self._runtime, self._threads, self._reporter.say)
        rows = [MeasuredNetwork(name, CALIBRATION, arch) for arch in archs]
        time_networks(rows, self.table, visits, worker, self._reporter)

    def session_count(self, arch: Architecture) -> int:
        """Return the number of sessions that measured a network, without interrupted ones."""
        return sum(
            row.arch.digest == arch.digest and self.table.sample_count(row) >= MIN_VISITS
            for row in self._visible_rows()
        )

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that has been measured."""
        if not self._latency_ms:
            self._latency_ms = linked(self._session_estimates())
        return self._latency_ms[arch.digest]

    def _session_estimates(self) -> dict[str, dict[str, float]]:
        """Return the latency in ms of each network in each session, by session and digest."""
        visits: dict[str, list[tuple[str, float, float]]] = {}
        for row in self._visible_rows():
            visits.setdefault(row.space, []).extend((row.arch.digest, at, ms) for at, ms in self.table.rows[row])
        return {
            name: estimate([digest for digest, _, _ in found], [at for _, at, _ in found], [ms for _, _, ms in found])
            for name, found in visits.items()
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The device, runtime and protocol of the latencies."""
        return self.table.header


class PredictedLatency:
    """Latencies predicted by the latency table of a device that need not be available.

    Methods raise TableError for layers that the table does not cover.
    """

    is_measured = False

    def __init__(self, predictor: LatencyPredictor, place: str):
        self._predictor, self.place = predictor, place

    def measure(self, archs: Sequence[Architecture]) -> None:
        """Check that the table covers the networks; TableError names the missing layer and the nearest row."""
        for arch in archs:
            self._predictor.predict(arch)

    def session_count(self, arch: Architecture) -> int:
        """Return 2: a prediction does not change, so it counts as confirmed."""
        return 2

    def ms(self, arch: Architecture) -> float:
        """Return the predicted latency in ms."""
        return self._predictor.predict(arch)

    @property
    def settings(self) -> dict[str, Any]:
        """The device, runtime and protocol of the latencies."""
        return self._predictor.table.header
