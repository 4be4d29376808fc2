"""The latency table that a search predicts with: found or profiled, covering the space, and how far to trust it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas.devices.client import open_worker
from nas.errors import TableError
from nas.latency.calibration import TOLERANCE
from nas.latency.catalog import find_table, processor
from nas.latency.profiler import default_table_path, profile, table_header
from nas.latency.published import complete, is_published
from nas.latency.table import IDENTITY, LatencyPredictor, LatencyTable
from nas.searching.settings import SearchSettings
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.study.storage import TABLE_DIGEST
from nas.utils.files import exclusive
from nas.utils.reporting import Reporter


@dataclass(frozen=True)
class SelectedTable:
    """A table that covers a space, and the digest of all that decides its predictions.

    `here` tells whether its device can be measured on; `place` names it.
    """

    table: LatencyTable
    predictor: LatencyPredictor
    here: bool
    digest: str

    @property
    def place(self) -> str:
        """The device in words: "this device", or the name of one that is not here."""
        host = self.table.header.get("host")
        return (f"'{host}'" if host else "this device") if self.here else processor(self.table)


def select_tables(experiment: SearchSettings, space: Space, reporter: Reporter) -> tuple[SelectedTable, ...]:
    """Return the tables of all devices, each as `ready_table` does."""
    return tuple(select_table(experiment, name, space, reporter) for name in experiment.tables or (None,))


def select_table(experiment: SearchSettings, name: str | None, space: Space, reporter: Reporter) -> SelectedTable:
    """Return a table that covers `space`: the one of that name, or the device's own, profiled as far as needed.

    Raises TableError where a given table is of another device or runtime and --any-device is not, and where a table
    that cannot be measured further lacks a layer.
    """
    reporter.say(f"listing the layers that '{space.name}' can have")
    layers = reachable(space)
    if name is None:
        return _profiled(experiment, space, None, reporter)
    table = LatencyTable.open(find_table(name))
    if is_published(table):
        digest = table.digest(layers, space.key)  # of what was measured: what is assumed follows from it
        for note in complete(table, layers):
            reporter.say(f"{table.path.stem}: {note}")
        table.check_covers(layers)
        return SelectedTable(table, table.predictor(space.key), False, digest)
    differences = table.differences(table_header(experiment.runtime, experiment.threads, experiment.device))
    if not differences:
        return _profiled(experiment, space, table, reporter)
    older = set(differences) == {"runtime_version"}
    words = "; ".join(differences.values())
    if not older and not experiment.any_device:
        raise TableError(f"{table.path}: {words}; give --any-device to use it all the same")
    reporter.warn(f"{table.path}: {words}{': profile anew, or verify it' if older else ''}")
    table.check_covers(layers)
    warn_of_errors(table, space, reporter)
    return SelectedTable(table, table.predictor(space.key), older, table.digest(layers, space.key))


def _profiled(
    experiment: SearchSettings, space: Space, table: LatencyTable | None, reporter: Reporter
) -> SelectedTable:
    """Return the table, or the device's own, with what it lacked measured."""
    if table is None:
        header = table_header(experiment.runtime, experiment.threads, experiment.device)
        table = LatencyTable.open(default_table_path(header), header)
    worker = open_worker(experiment.device, experiment.runtime, experiment.threads, reporter.say)
    with _alone(table.path, reporter):
        table = LatencyTable.open(table.path, table.header)  # another process may have measured meanwhile
        profile(space, table, reporter, worker=worker)
    warn_of_errors(table, space, reporter)
    return SelectedTable(table, table.predictor(space.key), True, table.digest(reachable(space), space.key))


@contextlib.contextmanager
def _alone(path: Path, reporter: Reporter) -> Iterator[None]:
    """Wait while another process measures into the table at `path`; one in a folder that is read-only needs no lock."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(PermissionError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            waits = partial(reporter.say, f"{path}: another process measures into it: waiting for it")
            held.enter_context(exclusive(lock, waits))
        yield


def warn_of_errors(table: LatencyTable, space: Space, reporter: Reporter) -> None:
    """Say how far the table's predictions were from networks that it had not seen; warn where that is too far."""
    certificate = table.certificates.get(space.key)
    if certificate is None:
        reporter.warn(f"{table.path}: was not held against whole networks of '{space.name}': sums of rows predict")
    elif certificate.mean_error > TOLERANCE:
        reporter.warn(f"{table.path}: predicts badly: {certificate}: profile anew, with nothing else running")
    else:
        reporter.say(f"table: {certificate}")


def table_identity(tables: Sequence[SelectedTable]) -> dict[str, Any]:
    """Return which tables a run's latencies are of: one study never mixes those of two."""
    digests = [ready.digest for ready in tables]
    return {TABLE_DIGEST: digests[0] if len(digests) == 1 else digests}


def given_identity(experiment: SearchSettings, space: Space) -> dict[str, Any]:
    """Return the same of the tables that --table names, before anything is measured; nothing without --table."""
    layers = reachable(space) if experiment.tables else ()
    digests = [LatencyTable.open(find_table(name)).digest(layers, space.key) for name in experiment.tables]
    return {TABLE_DIGEST: digests[0] if len(digests) == 1 else digests} if digests else {}


def published_identity(experiment: SearchSettings) -> dict[str, Any]:
    """Return which published table a run's latencies are of; nothing for a table of this or another machine here.

    Of several tables, return what each is. In a storage that machines may share, the device's own table is a part of
    the run: another machine's latencies are others.
    """
    if experiment.storage and not experiment.tables:
        header = table_header(experiment.runtime, experiment.threads, experiment.device)
        return {"measured_on": {key: header[key] for key in IDENTITY}}
    tables = [LatencyTable.open(find_table(name)) for name in experiment.tables]
    published = [is_published(table) for table in tables]
    names = [f"{table.path.stem}: {table.header.get('source')}" for table in tables]
    if len(tables) > 1:
        return {"tables": [name if of else t.path.stem for name, of, t in zip(names, published, tables, strict=True)]}
    return {"published_table": names[0]} if published == [True] else {}
