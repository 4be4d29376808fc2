"""Table selection: finds or measures the latency tables of a search, and checks that they cover its space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from nas.errors import TableError, UsageError
from nas.latency.calibration import TOLERANCE
from nas.latency.catalog import find_table, processor
from nas.latency.profiler import default_table_path, profile, table_header
from nas.latency.published import complete, is_published
from nas.latency.table import LatencyPredictor, LatencyTable
from nas.searching.context import SearchContext
from nas.spaces.automaton import best_path, reachable
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.latency_distribution import count_within, latency_distribution
from nas.spaces.search_space import Space
from nas.study.objectives import Goal
from nas.utils.files import exclusive
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency


@dataclass(frozen=True)
class SelectedTable:
    """A latency table that covers the space of a search.

    Attributes:
        table: The table.
        predictor: Predicts the latency of whole networks from it.
        can_measure: Whether its device is at hand, so that the winner can be measured.
        digest: Digest of everything that decides its predictions.
    """

    table: LatencyTable
    predictor: LatencyPredictor
    can_measure: bool
    digest: str

    @property
    def device_name(self) -> str:
        """The device in words: "this device", or the name of another one."""
        host = self.table.header.get("host")
        return (f"'{host}'" if host else "this device") if self.can_measure else processor(self.table)


@dataclass(frozen=True)
class LatencySpan:
    """The latencies of all distinct networks of a space on one device, in ms, as its table predicts them."""

    fastest_ms: float
    median_ms: float
    slowest_ms: float

    def to_dict(self) -> dict[str, float]:
        """Return the span as `result.json` holds it."""
        return asdict(self)


def select_tables(context: SearchContext) -> tuple[SelectedTable, ...]:
    """Return the table of each device. Raises TableError as `select_table`."""
    return tuple(select_table(context, name) for name in context.settings.tables or (None,))


def select_table(context: SearchContext, name: str | None) -> SelectedTable:
    """Return a table that covers the space: the table of that name, or the device's own.

    Layers that are missing are measured when the device is at hand.

    Raises:
        TableError: The table was made on another device or runtime and --any-device is not given, or it lacks a
            layer that cannot be measured.
    """
    settings, space, reporter = context.settings, context.space, context.reporter
    reporter.say(f"listing the layers that '{space.name}' can have")
    layers = reachable(space)
    if name is None:
        header = table_header(settings.runtime, settings.threads, settings.device)
        table = LatencyTable.open(default_table_path(header), header)
        table.check_same(header, "give a --table, or discard it with nas profile --replace")
        return _completed(context, table)
    table = LatencyTable.open(find_table(name))
    if is_published(table):
        digest = table.digest(layers, space.key)  # of the measured rows only: the assumed ones follow from them
        for note in complete(table, layers):
            reporter.say(f"{table.path.stem}: {note}")
        table.check_covers(layers)
        return SelectedTable(table, table.predictor(space.key), can_measure=False, digest=digest)
    differences = table.differences(table_header(settings.runtime, settings.threads, settings.device))
    if not differences:
        return _completed(context, table)
    only_version_differs = set(differences) == {"runtime_version"}
    described = "; ".join(differences.values())
    if not only_version_differs and not settings.any_device:
        raise TableError(f"{described}; give --any-device to use it nevertheless", where=table.path)
    advice = ": profile again, or verify the table" if only_version_differs else ""
    reporter.warn(f"{table.path}: {described}{advice}")
    table.check_covers(layers)
    report_accuracy(table, space, reporter)
    digest = table.digest(layers, space.key)
    return SelectedTable(table, table.predictor(space.key), can_measure=only_version_differs, digest=digest)


def _completed(context: SearchContext, table: LatencyTable) -> SelectedTable:
    """Return a table of the device after measuring the layers that it lacks."""
    space, reporter = context.space, context.reporter
    with _locked(table.path, reporter):
        table = LatencyTable.open(table.path, table.header)  # another process may have measured in the meantime
        profile(space, table, reporter, worker=context.device_worker)
    report_accuracy(table, space, reporter)
    digest = table.digest(reachable(space), space.key)
    return SelectedTable(table, table.predictor(space.key), can_measure=True, digest=digest)


@contextlib.contextmanager
def _locked(path: Path, reporter: Reporter) -> Iterator[None]:
    """Wait until no other process measures into the table at `path`. A read-only folder needs no lock."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(PermissionError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            report_wait = partial(reporter.say, f"{path}: waiting for another process that measures into it")
            held.enter_context(exclusive(lock, report_wait))
        yield


def report_accuracy(table: LatencyTable, space: Space, reporter: Reporter) -> None:
    """Report the table's error on networks that were not used to calibrate it, and warn if it is too large."""
    certificate = table.certificates.get(space.key)
    if certificate is None:
        reporter.warn(f"{table.path}: was never checked against whole networks of '{space.name}'; it may be inaccurate")
    elif certificate.mean_error > TOLERANCE:
        reporter.warn(f"{table.path}: predicts badly: {certificate}: profile again, with no other program running")
    else:
        reporter.say(f"table: {certificate}")


def check_reach(context: SearchContext, selected: SelectedTable, goals: Sequence[Goal]) -> LatencySpan:
    """Return and report the latencies that the space spans on a device.

    Args:
        context: The search.
        selected: The device's table.
        goals: The goals on this device.

    Raises:
        UsageError: Even the fastest network misses the target of a goal.
    """
    space = context.space
    costs = tabulate_costs(space, selected.predictor.layer_ms)
    span = LatencySpan(costs.min_cost, latency_distribution(costs).quantile(0.5), costs.max_cost)
    latencies = " / ".join(format_latency(ms) for ms in (span.fastest_ms, span.median_ms, span.slowest_ms))
    within = {goal.target_ms: count_within(costs, goal.target_ms).likely / costs.size for goal in goals}
    shares = " and ".join(f"{share:.1%} of it is within {format_latency(ms)}" for ms, share in within.items())
    context.reporter.say(f"{space.name} on {selected.device_name}: {latencies} (fastest / median / slowest); {shares}")
    for goal in goals:
        if goal.target_ms < span.fastest_ms:
            fastest = f"the fastest network of '{space.name}' takes {format_latency(span.fastest_ms)}"
            part = _post_part(space, selected.predictor, goal.target_ms)
            rule = f"{fastest} on {selected.device_name}{part}, this is out of reach"
            raise UsageError(rule, key="target_latency", value=format_latency(goal.target_ms))
    return span


def _post_part(space: Space, predictor: LatencyPredictor, target_ms: float) -> str:
    """Return, as a part of a sentence, the share of post-processing in the fastest network; "" for a classifier."""
    post_ms = predictor.post_ms(best_path(space, predictor.layer_ms)[1])
    if not post_ms:
        return ""
    alone = " alone, more than the target" if post_ms > target_ms else ""
    return f", {format_latency(post_ms)} of it for post-processing{alone}"
