"""Choice of references: the best published network whose measured latency holds a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from nas.architecture import Architecture
from nas.errors import NasError, TableError
from nas.latency.network_latencies import Measure, NetworkLatencies
from nas.latency.profiler import measure_networks, table_header
from nas.latency.table import LatencyPredictor
from nas.networks.blocks import is_ours
from nas.networks.network import totals, trace
from nas.searching.against.references import Reference, References, make_reference, searches_detectors
from nas.searching.budget.trainable import trainable
from nas.searching.context import SearchContext
from nas.searching.table_selection import SelectedTable
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space, space_names
from nas.study.objectives import Goal
from nas.utils.units import format_latency

IMAGENET_CLASSES = 1000
"""Published accuracies of networks with another number of classes are not comparable."""
FIRST_MEASURED = (0.0, 0.25, 0.5)
"""The first networks to measure, as quantiles of the MACs: small ones, because their measurements are short."""
MARGIN = 1.15
"""A network is measured if its prediction is within this factor of the target."""
BATCH = 2
"""Networks that are measured together."""


@dataclass(frozen=True)
class Published:
    """A shipped network with a published accuracy.

    Attributes:
        reference: The network.
        architecture: The network at the deployed resolution.
        costs: What latency is predicted from: the number of convolutions, MACs, elements read and written.
    """

    reference: Reference
    architecture: Architecture
    costs: tuple[float, float, float]

    @property
    def accuracy(self) -> float:
        """The published accuracy in percent."""
        return self.reference.published or 0.0


def choose_references(context: SearchContext, tables: Sequence[SelectedTable]) -> References:
    """Return the references with the chosen one of each goal, and report them.

    Named references are measured too, so that a network that the runtime cannot export is found before the search.

    Args:
        context: The search.
        tables: The latency table of each device.

    Raises:
        NasError: A named network cannot be measured.
    """
    found, reporter, sizes = context.references, context.reporter, context.space.resolution
    if found.is_older:
        reporter.say(f"{context.settings.folder}: began without --against and continues without it")
    if context.settings.worker:
        return found
    for reference in found.named:
        _report_named(context, reference, tables)
    if not found.must_choose:
        return found
    goals = context.objective.goals
    return replace(found, chosen={goal.name: choose(context, goal, tables[goal.device], max(sizes)) for goal in goals})


def choose(context: SearchContext, goal: Goal, selected: SelectedTable, resolution: int) -> Reference | None:
    """Return the reference of a goal, or None if there is none, and report it.

    It is the shipped network with the highest published accuracy among those whose latency at the deployed resolution
    holds the target; of equal accuracies, the faster one. The accuracy is the top-1 accuracy on ImageNet, of a detector
    the AP on COCO. With a budget, networks that are too large to be trained well in that time do not count, see
    `trainable`. Another rule is to take the slowest network within the target. It would choose old networks, which are
    slow for their accuracy, and would be easy to beat. Published accuracies belong to the networks' own resolutions;
    the order at another one may differ.

    Latencies are measured. On a device that is not available they are predicted by the table, as far as it covers the
    networks' layers.

    Args:
        context: The search.
        goal: The goal.
        selected: The latency table of the goal's device.
        resolution: The deployed resolution in pixels.
    """
    target, say = format_latency(goal.target_ms), context.reporter.say
    say(f"reference: looking for the best published network within {target} at {resolution} px")
    pool = published_networks(context.space, resolution)
    able = trainable(context, [each.architecture for each in pool])
    if not all(able):
        pool = [each for each, is_able in zip(pool, able, strict=True) if is_able]
        say(f"reference: {able.count(False)} larger networks cannot be trained well within the budget and do not count")
    if selected.can_measure:
        try:
            latencies = NetworkLatencies.open(_header(context))
            with latencies.locked(context.reporter):
                best = best_within(pool, goal.target_ms, latencies, _measure(context), context.reporter.warn)
        except NasError as error:
            context.reporter.warn(f"no reference: the published networks cannot be measured: {error}")
            return None
        known, basis = latencies.ms, "measured"
    else:
        known, basis = predicted_ms(pool, selected.predictor), "predicted"
        best = _best(pool, goal.target_ms, known)
        if not known:
            say(f"no reference: the latencies of the published networks on {selected.device_name} are not known")
            return None
    if best is None:
        say(f"no reference: none of the published networks holds {target}; the search continues without one")
        return None
    latency = format_latency(known[best.architecture.digest])
    say(f"reference: {best.reference.name}, {latency} {basis}, {_spell_published(best.reference)}")
    return best.reference


def published_networks(space: Space, resolution: int) -> list[Published]:
    """Return the shipped networks of the space's kind with a published accuracy, the most accurate first.

    Of equal designs, the one that was published closest to the resolution is listed. Networks that cannot be built at
    the resolutions of the search are left out.
    """
    found: dict[str, Published] = {}
    of_detectors = searches_detectors(space)
    for name in space_names():
        shipped = load_space(name)
        accuracy = _published_accuracy(shipped, of_detectors)
        if accuracy is None:
            continue
        try:
            reference = make_reference(name, space, accuracy)
            arch = reference.at(resolution)
        except NasError:
            continue
        layers = trace(arch)
        whole, convolutions = totals(layers), sum(len(layer.convolutions) for layer in layers)
        each = Published(reference, arch, (float(convolutions), float(whole.macs), float(whole.memory_access)))
        other = found.get(arch.digest)
        if other is None or _distance(each, resolution) < _distance(other, resolution):
            found[arch.digest] = each
    return sorted(found.values(), key=lambda each: (-each.accuracy, each.costs[1]))


def _published_accuracy(shipped: Space, of_detectors: bool) -> float | None:
    """Return the accuracy in percent that a network was published with; None if there is none to compare."""
    if not shipped.is_network:
        return None
    if of_detectors:
        return shipped.published_ap
    classes = dict(shipped.head.args).get("num_classes", (IMAGENET_CLASSES,))[0]
    return shipped.published_top1 if classes == IMAGENET_CLASSES else None


def _spell_published(reference: Reference) -> str:
    spelled = "AP {:g}% published on COCO" if reference.is_detector else "{:g}% published on ImageNet"
    return spelled.format(reference.published)


def _distance(published: Published, resolution: int) -> int:
    return abs(published.reference.architecture.resolution - resolution)


def best_within(
    pool: Sequence[Published],
    target_ms: float,
    latencies: NetworkLatencies,
    measure: Measure,
    warn: Callable[[str], None] = lambda message: None,
) -> Published | None:
    """Return the most accurate network whose measured latency holds the target; None if there is none.

    Few networks are measured. Latencies are predicted by a fit to those that are already measured. The most accurate
    networks that may hold the target are measured, the fit is repeated, and so on until a measured network is the
    best of all that may hold it.

    Args:
        pool: The networks, the most accurate first.
        target_ms: The target in ms.
        latencies: The known latencies; the measured ones are added.
        measure: Measures whole networks.
        warn: Receives a warning about each network that cannot be measured. It is left out.

    Raises:
        NasError: The first networks cannot be measured.
    """
    by_macs, left = sorted(pool, key=lambda each: each.costs[1]), list(pool)
    if pool and sum(each.architecture.digest in latencies.ms for each in pool) < len(FIRST_MEASURED):
        first = [by_macs[int(share * (len(pool) - 1))] for share in FIRST_MEASURED]
        failed = _measured_without(first, latencies, measure, warn)
        left = [each for each in left if each not in failed]
    while waiting := _may_be_best(left, target_ms, latencies.ms):
        failed = _measured_without(waiting[:BATCH], latencies, measure, warn)
        left = [each for each in left if each not in failed]
    return _best(left, target_ms, latencies.ms)


def _measured_without(
    networks: Sequence[Published], latencies: NetworkLatencies, measure: Measure, warn: Callable[[str], None]
) -> list[Published]:
    """Measure networks, and return those that cannot be measured. Raises NasError if no network was ever measured."""
    try:
        latencies.measure([each.architecture for each in networks], measure)
        return []
    except NasError as error:
        last = error
    failed = []
    for each in networks:
        try:
            latencies.measure([each.architecture], measure)
        except NasError as error:
            last = error
            failed.append(each)
    if not latencies.ms:
        raise last
    for each in failed:
        warn(f"the published network {each.reference.name} cannot be measured and is left out")
    return failed


def _best(pool: Sequence[Published], target_ms: float, known: Mapping[str, float]) -> Published | None:
    """Return the most accurate network with a known latency within the target; of equals, the faster one."""
    holding = [each for each in pool if known.get(each.architecture.digest, inf) <= target_ms]
    return min(holding, key=lambda each: (-each.accuracy, known[each.architecture.digest]), default=None)


def _may_be_best(pool: Sequence[Published], target_ms: float, known: Mapping[str, float]) -> list[Published]:
    """Return the networks without a known latency that may hold the target and are no worse than the best so far."""
    best = _best(pool, target_ms, known)
    least = best.accuracy if best else 0.0
    predict = fit_latency(pool, known)
    waiting = [each for each in pool if each.architecture.digest not in known and each.accuracy >= least]
    return [each for each in waiting if predict(each) <= MARGIN * target_ms]


def fit_latency(pool: Sequence[Published], known: Mapping[str, float]) -> Callable[[Published], float]:
    """Return a function that predicts latencies in ms: a sum of the costs, with weights that are not negative.

    The weights minimize the relative errors of the known latencies.
    """
    import numpy as np
    from scipy.optimize import nnls

    measured = [each for each in pool if each.architecture.digest in known]
    if not measured:
        return lambda _: 0.0
    costs = np.array([each.costs for each in measured])
    latencies = np.array([known[each.architecture.digest] for each in measured])
    scale = costs.max(axis=0)
    weights = nnls(costs / scale / latencies[:, None], np.ones(len(latencies)))[0] / scale
    return lambda each: float(np.dot(weights, each.costs))


def predicted_ms(pool: Sequence[Published], predictor: LatencyPredictor) -> dict[str, float]:
    """Return the predicted latencies in ms of the networks whose layers a table covers, by digest."""
    found = {each.architecture.digest: predict(each.architecture, predictor) for each in pool}
    return {digest: ms for digest, ms in found.items() if ms is not None}


def predict(arch: Architecture, predictor: LatencyPredictor) -> float | None:
    """Return the predicted latency of a network in ms, or None if the table does not cover its layers."""
    try:
        return predictor.predict(arch)
    except TableError:
        return None


def _report_named(context: SearchContext, reference: Reference, tables: Sequence[SelectedTable]) -> None:
    """Report the latency of a named reference on each device at the largest resolution of the space."""
    arch = reference.at(max(context.space.resolution))
    for selected in tables:
        ms, basis = predict(arch, selected.predictor), "predicted"
        if selected.can_measure:
            latencies, basis = NetworkLatencies.open(_header(context)), "measured"
            try:
                with latencies.locked(context.reporter):
                    latencies.measure([arch], _measure(context))
            except NasError as error:
                raise type(error)(str(error), where=f"--against {reference.name}") from error
            ms = latencies.ms[arch.digest]
        latency = "not known" if ms is None else f"{format_latency(ms)} {basis}"
        context.reporter.say(f"reference: {reference.name}, {latency} on {selected.device_name}")


def is_foreign(reference: Reference) -> bool:
    """Whether a network has blocks of other packages."""
    return not all(is_ours(spec.op) for spec in (*reference.architecture.blocks(), reference.architecture.head))


def _header(context: SearchContext) -> dict[str, object]:
    settings = context.settings
    return table_header(settings.runtime, settings.threads, settings.device)


def _measure(context: SearchContext) -> Measure:
    settings = context.settings
    return lambda archs: measure_networks(archs, settings.runtime, settings.threads, context.reporter, settings.device)
