"""Scaling to latency targets: estimate the phi of each target, measure its network, and refine the estimate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from nas.architecture import Architecture
from nas.errors import SpaceError, UsageError
from nas.networks.network import canonical, totals, trace
from nas.scaling.family import Member, make_member
from nas.scaling.network_latency import NetworkLatency
from nas.scaling.presets import ScalingRule
from nas.scaling.sizes import DIMENSIONS, Rounding
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

CLOSE_SHARE = 0.05
"""A network is close to a target if it is below it by at most this share."""
AIM_SHARE = 0.975
"""The share of a target that the search aims at."""
MAX_ROUNDS = 10
MAX_MS = 1e9
PHI_RANGE = 0.1
"""Distance from the estimated phi within which other phis are considered, in steps of PHI_STEP."""
PHI_STEP = 0.02
PHI_OFFSETS = tuple(sign * step / 20 for step in range(1, 15) for sign in (1, -1))
"""Offsets of one dimension's phi from the rule's phi, used if the steps of the rule are too coarse for a target."""
RESOLUTION_OFFSETS = tuple(step / 10 for step in range(-7, 16))
"""Offsets of the resolution's phi from the rule's phi, used if one dimension's own phi is not enough."""
WIDTH_OFFSETS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.4, -0.4)
"""Offsets of the width's phi from the resolution's phi, used along with RESOLUTION_OFFSETS."""


@dataclass(frozen=True)
class TargetResult:
    """The network found for a latency target.

    Attributes:
        target_ms: The target in ms.
        member: The network.
        latency_ms: Its latency in ms.
        own_phis: The dimensions whose phi differs from the rule's, each with its phi; empty for most targets.
    """

    target_ms: float
    member: Member
    latency_ms: float
    own_phis: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the latency is at most the target."""
        return self.latency_ms <= self.target_ms

    @property
    def is_close(self) -> bool:
        """Whether the latency is at most the target, and below it by at most CLOSE_SHARE."""
        return self.holds and self.latency_ms >= (1 - CLOSE_SHARE) * self.target_ms


Candidate = tuple[Member, dict[str, float]]
"""A network and the dimensions that have a phi of their own."""


class LatencyEstimator:
    """Latencies of networks: measured in sessions with the base, or estimated from the MACs of similar networks.

    Args:
        base: The base.
        network_latency: Measures or predicts latencies.
        known: Networks that `network_latency` has already measured.
    """

    def __init__(self, base: Architecture, network_latency: NetworkLatency, known: Sequence[Architecture] = ()):
        self.base = canonical(base)
        self._network_latency = network_latency
        self._measured = {arch.digest: arch for arch in known}

    def measure(self, archs: Sequence[Architecture]) -> None:
        """Measure the base and the networks in one session."""
        session = {arch.digest: arch for arch in (self.base, *archs)}
        self._network_latency.measure(list(session.values()))
        self._measured |= session

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that has been measured."""
        return self._network_latency.ms(arch)

    def is_confirmed(self, arch: Architecture) -> bool:
        """Whether a network has been measured in more than one session, so after it was selected."""
        return self._network_latency.session_count(arch) > 1

    def estimate_ms(self, arch: Architecture) -> float:
        """Return the measured latency in ms, or an estimate from the latency per MAC of similar networks."""
        if arch.digest in self._measured:
            return self.ms(arch)
        own = _features(arch)
        logs = weights = 0.0
        for known in self._measured.values():
            other = _features(known)
            weight = 1 / (math.dist(own, other) ** 2 + 1e-9)
            logs += weight * (math.log(self.ms(known)) - other[0])
            weights += weight
        return math.exp(logs / weights + own[0])


@lru_cache(maxsize=100_000)
def _features(arch: Architecture) -> tuple[float, float, float]:
    """Return the logarithms of MACs, activations and layers; networks with similar values run at similar speed."""
    layers = trace(arch)
    whole = totals(layers)
    return math.log(whole.macs), math.log(whole.activations), math.log(len(layers))


@dataclass(frozen=True)
class LatencyTarget:
    """A latency, and the rule whose network shall reach it.

    Attributes:
        coefficients: The rule.
        latency: The target in ms, or relative to the base.
        key: The setting that the target comes from, for error messages.
        of_base: Whether `latency` is relative to the latency of the base, as measured so far.
    """

    coefficients: ScalingRule
    latency: float
    key: str = "latency"
    of_base: bool = False

    def target_ms(self, estimator: LatencyEstimator) -> float:
        """Return the target in ms."""
        return self.latency * estimator.ms(estimator.base) if self.of_base else self.latency


def meet_targets(
    estimator: LatencyEstimator, targets: Sequence[LatencyTarget], rounding: Rounding, reporter: Reporter
) -> list[TargetResult]:
    """Return the network of each target: just below it, and measured again after it was selected.

    If no network is close to a target, the slowest measured network that holds it is returned.

    Args:
        estimator: Measures and estimates latencies.
        targets: The targets; they share measurement sessions.
        rounding: How scaled sizes are rounded.
        reporter: Reports each round.

    Raises:
        UsageError: If a target is below the latency of the base, or beyond the largest network of its rule.
    """
    searches = [_PhiSearch(estimator, target, rounding) for target in targets]
    estimator.measure([search.first().architecture for search in searches])
    for target in targets:
        target_ms, base_ms = target.target_ms(estimator), estimator.ms(estimator.base)
        if base_ms > target_ms:
            rule = f"is below the latency of the base, {format_latency(base_ms)}, and scaling only adds to it"
            raise UsageError(rule, key=target.key, value=format_latency(target_ms))
    selected = [search.best(target.target_ms(estimator)) for search, target in zip(searches, targets, strict=True)]
    tried: list[list[Candidate]] = [[] for _ in targets]
    for number in range(MAX_ROUNDS):
        for candidates, candidate in zip(tried, selected, strict=True):
            candidates.append(candidate)
        estimator.measure([member.architecture for member, _ in selected])
        results = _make_results(estimator, targets, selected)
        reporter.say(f"round {number + 1}: {', '.join(map(_describe, results))}")
        refined = [
            candidate if result.is_close else search.best(result.target_ms)
            for search, result, candidate in zip(searches, results, selected, strict=True)
        ]
        is_same = [member.architecture for member, _ in refined] == [member.architecture for member, _ in selected]
        if is_same and all(estimator.is_confirmed(member.architecture) for member, _ in selected):
            break
        selected = refined
    final = [_best_measured(estimator, *known) for known in zip(targets, tried, strict=True)]
    return _make_results(estimator, targets, final)


def _best_measured(estimator: LatencyEstimator, target: LatencyTarget, tried: Sequence[Candidate]) -> Candidate:
    """Return the slowest measured network that holds the target, confirmed ones first; else the fastest network."""

    def ms(candidate: Candidate) -> float:
        return estimator.ms(candidate[0].architecture)

    within = [candidate for candidate in tried if ms(candidate) <= target.target_ms(estimator)]
    if not within:
        return min(tried, key=ms)
    return max(within, key=lambda candidate: (estimator.is_confirmed(candidate[0].architecture), ms(candidate)))


def _make_results(
    estimator: LatencyEstimator, targets: Sequence[LatencyTarget], candidates: Sequence[Candidate]
) -> list[TargetResult]:
    results = []
    for target, (member, own_phis) in zip(targets, candidates, strict=True):
        named = replace(member, name=f"{target.latency:.12g} ms")
        results.append(TargetResult(target.target_ms(estimator), named, estimator.ms(member.architecture), own_phis))
    return results


def _describe(result: TargetResult) -> str:
    latency, target = format_latency(result.latency_ms), format_latency(result.target_ms)
    return f"{latency} of {target} (phi {result.member.phi or 0:.3g})"


class _PhiSearch:
    """Searches the networks of a rule for one latency target."""

    def __init__(self, estimator: LatencyEstimator, target: LatencyTarget, rounding: Rounding):
        self._estimator, self._rounding = estimator, rounding
        self._coefficients, self._key = target.coefficients, target.key

    def _member(self, phi: float) -> Member:
        return make_member(self._estimator.base, self._coefficients.at(phi), self._rounding, f"phi {phi:.3g}", phi)

    def first(self) -> Member:
        """Return the network to measure first: of phi 1, or of a smaller phi if that one is invalid."""
        for phi in (1.0, 0.5, 0.25):
            for member in self._valid(phi):
                return member
        return self._member(0.1)

    def _valid(self, phi: float) -> Iterator[Member]:
        """Yield the network of a phi, or nothing if it is invalid."""
        with contextlib.suppress(SpaceError):
            yield self._member(phi)

    def best(self, target_ms: float) -> Candidate:
        """Return the network that is estimated to be just below the target.

        Networks of the rule are preferred. If their steps are too coarse, one dimension gets a phi of its own, and
        if that is not enough, each dimension.
        """
        phi = self._estimated_phi(AIM_SHARE * target_ms)
        last = round(PHI_RANGE / PHI_STEP)
        steps = [index * PHI_STEP for index in range(-last, last + 1)]
        found = _distinct((member, {}) for step in steps if phi + step >= 0 for member in self._valid(phi + step))
        for vary in (self._vary_one, self._vary_all) if len(self._coefficients.dimensions) > 1 else ():
            if not any(self._fits(member, target_ms) for member, _ in found):
                found = _distinct([*found, *vary(phi)])
        below = [candidate for candidate in found if self._estimate_ms(candidate[0]) <= target_ms * 0.999]
        if not below:
            return min(found, key=lambda candidate: self._estimate_ms(candidate[0]))
        return min(below, key=lambda candidate: self._distance(candidate, target_ms))

    def _estimate_ms(self, member: Member) -> float:
        return self._estimator.estimate_ms(member.architecture)

    def _fits(self, member: Member, target_ms: float) -> bool:
        low, high = (1 - 0.8 * CLOSE_SHARE) * target_ms, (1 - 0.2 * CLOSE_SHARE) * target_ms
        return low <= self._estimate_ms(member) <= high

    def _distance(self, candidate: Candidate, target_ms: float) -> tuple[bool, float]:
        """Return the sort key of a candidate: the distance to the aim, plus a penalty for own phis."""
        member, own_phis = candidate
        share = self._estimate_ms(member) / target_ms
        deviation = sum(abs(phi - (member.phi or 0.0)) for phi in own_phis.values())
        return not self._fits(member, target_ms), abs(share - AIM_SHARE) + 0.1 * deviation

    def _vary_one(self, phi: float) -> Iterator[Candidate]:
        """Yield networks near `phi` with another phi for one dimension.

        Also yields networks that keep one dimension at `phi` while the others grow: just above phi 0, the depth
        doubles every stage of one layer.
        """
        for dimension, offset in product(DIMENSIONS, PHI_OFFSETS):
            for rule_phi in (phi, phi + PHI_RANGE / 2):
                yield from self._with_own_phis(rule_phi, {dimension: rule_phi + offset})
            if offset > 0:
                yield from self._with_own_phis(phi + offset, {dimension: phi})

    def _vary_all(self, phi: float) -> Iterator[Candidate]:
        """Yield networks near `phi` with an own phi for each dimension."""
        for depth, ahead, apart in product((0.0, phi - 0.5, phi, phi + 0.5), RESOLUTION_OFFSETS, WIDTH_OFFSETS):
            resolution = phi + ahead
            yield from self._with_own_phis(phi, {"depth": depth, "resolution": resolution, "width": resolution + apart})

    def _with_own_phis(self, phi: float, own_phis: dict[str, float]) -> Iterator[Candidate]:
        """Yield the network of a phi with other phis for some dimensions.

        Yields nothing if they change no factor, if a factor is below 1, or if the network is invalid.
        """
        own = {name: getattr(self._coefficients.at(own_phi), name) for name, own_phi in own_phis.items()}
        rule = self._coefficients.at(phi)
        changed = {name: own_phi for name, own_phi in own_phis.items() if own[name] != getattr(rule, name)}
        if changed and all(factor >= 1 for factor in own.values()):
            with contextlib.suppress(SpaceError):
                factors = replace(rule, **own)
                yield make_member(self._estimator.base, factors, self._rounding, f"phi {phi:.3g}", phi), changed

    def _estimated_phi(self, latency_ms: float) -> float:
        """Return the phi with the estimated latency, by bisection, or the last valid phi below it.

        Raises UsageError if the network of the last valid phi is far below the latency.
        """
        low, high = 0.0, 1.0
        while self._estimate_at(high) < latency_ms:
            low, high = high, 2 * high
        while high - low > max(PHI_STEP / 2, 1e-6 * high):
            middle = (low + high) / 2
            low, high = (middle, high) if self._estimate_at(middle) < latency_ms else (low, middle)
        low_ms = self._estimate_at(low)
        if low_ms < latency_ms / 2 and self._estimate_at(high) > MAX_MS:
            rule = f"is out of reach: the last valid phi, {low:.3g}, is estimated at {format_latency(low_ms)}"
            raise UsageError(rule, key=self._key, value=format_latency(latency_ms / AIM_SHARE))
        return low

    def _estimate_at(self, phi: float) -> float:
        """Return the estimated latency in ms at a phi; infinite if the network is invalid."""
        return next((self._estimate_ms(member) for member in self._valid(phi)), math.inf)


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the first candidate of each network."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(candidate[0].architecture.digest, candidate)
    return list(found.values())
