"""The networks of a rule that take given latencies: guessed from what was measured, measured, and guessed again."""

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
from nas.scaling.family import Member, member
from nas.scaling.network_latency import NetworkLatency
from nas.scaling.presets import Coefficients
from nas.scaling.scale import DIMENSIONS, Rounding
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

NARROW = 0.05
"""A network meets a target where it takes at most this share less."""
AIM = 0.975
ROUNDS = 10
LARGEST_MS = 1e9
NEAR = 0.1
"""How far from the guessed phi others are looked at, in steps of FINE."""
FINE = 0.02
STRAYS = tuple(sign * step / 20 for step in range(1, 15) for sign in (1, -1))
"""By how much of phi one dimension may leave the others, where their common steps are too coarse for a target."""


@dataclass(frozen=True)
class TargetResult:
    """The network found for a target, with what it takes; `strays` tells which dimension has another phi, and which."""

    target_ms: float
    member: Member
    latency_ms: float
    strays: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether it takes no longer than the target."""
        return self.latency_ms <= self.target_ms

    @property
    def is_close(self) -> bool:
        """Whether it holds the target by at most NARROW of it."""
        return self.holds and self.latency_ms >= (1 - NARROW) * self.target_ms


AHEAD = tuple(step / 10 for step in range(-7, 16))
APART = (0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.4, -0.4)
"""The same where two do: resolution from the rule's phi, and width from the resolution's."""
Choice = tuple[Member, dict[str, float]]


class LatencyEstimator:
    """What networks take: measured beside the base, and of others what is to be expected, by their MACs.

    `known` are networks whose latency the stopwatch knows.
    """

    def __init__(self, base: Architecture, stopwatch: NetworkLatency, known: Sequence[Architecture] = ()):
        self.base = canonical(base)
        self._stopwatch = stopwatch
        self._seen = {arch.digest: arch for arch in known}

    def look(self, archs: Sequence[Architecture]) -> None:
        """Measure the base and the networks in one session."""
        every = {arch.digest: arch for arch in (self.base, *archs)}
        self._stopwatch.session(list(every.values()))
        self._seen |= every

    def ms(self, arch: Architecture) -> float:
        """Return the latency in ms of a network that was looked at."""
        return self._stopwatch.ms(arch)

    def is_confirmed(self, arch: Architecture) -> bool:
        """Whether a network was measured again after what was measured of it made it the choice."""
        return self._stopwatch.sessions(arch) > 1

    def guess(self, arch: Architecture) -> float:
        """Return the latency in ms to expect: by what similar networks take for each of their MACs."""
        if arch.digest in self._seen:
            return self.ms(arch)
        own = _features(arch)
        logs = weights = 0.0
        for seen in self._seen.values():
            other = _features(seen)
            weight = 1 / (math.dist(own, other) ** 2 + 1e-9)
            logs += weight * (math.log(self.ms(seen)) - other[0])
            weights += weight
        return math.exp(logs / weights + own[0])


@lru_cache(maxsize=100_000)
def _features(arch: Architecture) -> tuple[float, float, float]:
    """Return the logarithms of MACs, activations and layers: networks of like ones are alike in speed."""
    layers = trace(arch)
    whole = totals(layers)
    return math.log(whole.macs), math.log(whole.activations), math.log(len(layers))


@dataclass(frozen=True)
class LatencyTarget:
    """A latency in ms, and the rule whose network shall take it; `flag` is what asked for it.

    With `of_base` it is so many times what the base takes, as far as that is known by then.
    """

    coefficients: Coefficients
    latency: float
    flag: str = "--latency"
    of_base: bool = False

    def target_ms(self, scout: LatencyEstimator) -> float:
        """Return the latency in ms."""
        return self.latency * scout.ms(scout.base) if self.of_base else self.latency


def meet(
    scout: LatencyEstimator, wants: Sequence[LatencyTarget], rounding: Rounding, reporter: Reporter
) -> list[TargetResult]:
    """Return the network of each rule that takes just under its target; each was measured again once it was chosen.

    A target that no network meets to NARROW gets the slowest found that holds it. Raises UsageError where the base
    takes longer than a target, or no phi takes as long.
    """
    paths = [_Path(scout, want, rounding) for want in wants]
    scout.look([path.first().architecture for path in paths])
    for want in wants:
        if scout.ms(scout.base) > want.target_ms(scout):
            raise UsageError(
                f"{want.flag}: '{format_latency(want.target_ms(scout))}' is under what the base takes, "
                f"{format_latency(scout.ms(scout.base))}: scaling only makes it slower"
            )
    chosen = [path.nearest(want.target_ms(scout)) for path, want in zip(paths, wants, strict=True)]
    tried: list[list[Choice]] = [[] for _ in wants]
    for number in range(ROUNDS):
        for known, choice in zip(tried, chosen, strict=True):
            known.append(choice)
        scout.look([made.architecture for made, _ in chosen])
        met = _as_measured(scout, wants, chosen)
        reporter.say(f"round {number + 1}: {', '.join(map(_in_words, met))}")
        better = [
            now if each.is_close else path.nearest(each.target_ms)
            for path, each, now in zip(paths, met, chosen, strict=True)
        ]
        same = [made.architecture for made, _ in better] == [made.architecture for made, _ in chosen]
        if same and all(scout.is_confirmed(made.architecture) for made, _ in chosen):
            break
        chosen = better
    return _as_measured(scout, wants, [_best(scout, *known) for known in zip(wants, tried, strict=True)])


def _best(scout: LatencyEstimator, want: LatencyTarget, tried: Sequence[Choice]) -> Choice:
    """Return the slowest of the networks that were measured and hold the target, else the fastest."""

    def ms(choice: Choice) -> float:
        return scout.ms(choice[0].architecture)

    within = [choice for choice in tried if ms(choice) <= want.target_ms(scout)]
    if not within:
        return min(tried, key=ms)
    return max(within, key=lambda choice: (scout.is_confirmed(choice[0].architecture), ms(choice)))


def _as_measured(
    scout: LatencyEstimator, wants: Sequence[LatencyTarget], chosen: Sequence[Choice]
) -> list[TargetResult]:
    found = []
    for want, (made, strays) in zip(wants, chosen, strict=True):
        named = replace(made, name=f"{want.latency:.12g} ms")
        found.append(TargetResult(want.target_ms(scout), named, scout.ms(made.architecture), strays))
    return found


def _in_words(met: TargetResult) -> str:
    return f"{format_latency(met.latency_ms)} of {format_latency(met.target_ms)} (phi {met.member.phi or 0:.3g})"


class _Path:
    """The networks of a rule from the base on."""

    def __init__(self, scout: LatencyEstimator, want: LatencyTarget, rounding: Rounding):
        self._scout, self._coefficients, self._rounding, self._flag = scout, want.coefficients, rounding, want.flag

    def at(self, phi: float) -> Member:
        """Return the network of a phi."""
        return member(self._scout.base, self._coefficients.at(phi), self._rounding, f"phi {phi:.3g}", phi)

    def first(self) -> Member:
        """Return a network of the rule to begin with: of phi 1, or of less where that is beyond what can be built."""
        for phi in (1.0, 0.5, 0.25):
            for made in self._made(phi):
                return made
        return self.at(0.1)

    def _made(self, phi: float) -> Iterator[Member]:
        """Yield the network of a phi, or nothing where it cannot be."""
        with contextlib.suppress(SpaceError):
            yield self.at(phi)

    def nearest(self, target_ms: float) -> Choice:
        """Return the network that is expected just under the target, and which dimension strays from the rule's phi.

        The rule's own networks come first; where their steps are too coarse, one dimension may stray.
        """
        phi = self._reaching(AIM * target_ms)
        steps = [index * FINE for index in range(-round(NEAR / FINE), round(NEAR / FINE) + 1)]
        made = self._distinct((each, {}) for step in steps if phi + step >= 0 for each in self._made(phi + step))
        for strays in (self._strayed, self._strayed_twice) if len(self._coefficients.dimensions) > 1 else ():
            if not any(self._fits(each, target_ms) for each, _ in made):
                made = self._distinct([*made, *strays(phi)])
        below = [each for each in made if self._expected(each[0]) <= target_ms * 0.999]
        if not below:
            return min(made, key=lambda each: self._expected(each[0]))
        return min(below, key=lambda each: self._distance(each, target_ms))

    def _distinct(self, choices: Iterable[Choice]) -> list[Choice]:
        found: dict[str, Choice] = {}
        for choice in choices:
            found.setdefault(choice[0].architecture.digest, choice)
        return list(found.values())

    def _expected(self, made: Member) -> float:
        return self._scout.guess(made.architecture)

    def _fits(self, made: Member, target_ms: float) -> bool:
        return (1 - 0.8 * NARROW) * target_ms <= self._expected(made) <= (1 - 0.2 * NARROW) * target_ms

    def _distance(self, choice: Choice, target_ms: float) -> tuple[bool, float]:
        made, strays = choice
        share = self._expected(made) / target_ms
        far = sum(abs(phi - (made.phi or 0.0)) for phi in strays.values())
        return not self._fits(made, target_ms), abs(share - AIM) + 0.1 * far

    def _strayed(self, phi: float) -> Iterator[Choice]:
        """Yield the networks around a phi with one dimension ahead of the others or behind.

        Or left at that phi while the others go on: from phi 0 on every stage of one layer has two.
        """
        for name, stray in product(DIMENSIONS, STRAYS):
            for at in (phi, phi + NEAR / 2):
                yield from self._with(at, {name: at + stray})
            if stray > 0:
                yield from self._with(phi + stray, {name: phi})

    def _strayed_twice(self, phi: float) -> Iterator[Choice]:
        """Yield the networks whose depth waits or runs ahead, while width and resolution go on, each by itself."""
        for depth, ahead, apart in product((0.0, phi - 0.5, phi, phi + 0.5), AHEAD, APART):
            resolution = phi + ahead
            yield from self._with(phi, {"depth": depth, "resolution": resolution, "width": resolution + apart})

    def _with(self, phi: float, strays: dict[str, float]) -> Iterator[Choice]:
        """Yield the network of a phi whose dimensions have another, if that changes it and makes none smaller."""
        own = {name: getattr(self._coefficients.at(stray), name) for name, stray in strays.items()}
        rule = self._coefficients.at(phi)
        told = {name: stray for name, stray in strays.items() if own[name] != getattr(rule, name)}
        if told and all(factor >= 1 for factor in own.values()):
            with contextlib.suppress(SpaceError):
                yield member(self._scout.base, replace(rule, **own), self._rounding, f"phi {phi:.3g}", phi), told

    def _reaching(self, latency_ms: float) -> float:
        """Return the phi at which the latency is expected, by bisection, or the last that can be built before it.

        Raises UsageError where that is too quick by far.
        """
        low, high = 0.0, 1.0
        while self._expected_at(high) < latency_ms:
            low, high = high, 2 * high
        while high - low > max(FINE / 2, 1e-6 * high):
            middle = (low + high) / 2
            low, high = (middle, high) if self._expected_at(middle) < latency_ms else (low, middle)
        if self._expected_at(low) < latency_ms / 2 and self._expected_at(high) > LARGEST_MS:
            raise UsageError(
                f"{self._flag}: '{format_latency(latency_ms / AIM)}' is out of reach: at phi {low:.3g}, the last that "
                f"can be built, {format_latency(self._expected_at(low))} are expected"
            )
        return low

    def _expected_at(self, phi: float) -> float:
        """Return the latency in ms to expect at a phi, endless where nothing can be built there."""
        return next((self._expected(made) for made in self._made(phi)), math.inf)
