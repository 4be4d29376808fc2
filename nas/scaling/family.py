"""The networks that a rule or a table makes of a base, and what each costs beside what the rule aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import widths
from nas.networks.network import Totals, canonical, totals, trace
from nas.scaling.presets import Coefficients, Point
from nas.scaling.scale import Factors, Rounding, scale

BASE = "base"


@dataclass(frozen=True)
class Member:
    """A network of a family: what it was asked to be, and what rounding made of it. `phi` where a rule led there."""

    name: str
    factors: Factors
    architecture: Architecture
    phi: float | None = None


def member(base: Architecture, factors: Factors, rounding: Rounding, name: str, phi: float | None = None) -> Member:
    """Return the network of the factors. Raises SpaceError with the member's name and what does not fit."""
    try:
        arch = canonical(scale(base, factors, rounding))
    except SpaceError as error:
        raise SpaceError(f"{name}: {error}") from error
    return Member(name, factors, arch, phi)


def by_phi(base: Architecture, coefficients: Coefficients, phis: Sequence[float], rounding: Rounding) -> list[Member]:
    """Return the network of each phi: about 2^phi times the base's MACs where alpha * beta^2 * gamma^2 is 2."""
    return [member(base, coefficients.at(phi), rounding, f"phi {phi:.12g}", phi) for phi in phis]


def farthest(base: Architecture, coefficients: Coefficients, phi: float, rounding: Rounding) -> float:
    """Return about the last phi from 0 on towards `phi`, of which no network can be made, that one can be made of."""
    known, beyond = 0.0, phi
    while abs(beyond - known) > 0.002 * max(1.0, abs(known)):
        middle = (known + beyond) / 2
        try:
            scale(base, coefficients.at(middle), rounding)
            known = middle
        except SpaceError:
            beyond = middle
    return known


def by_points(base: Architecture, points: Sequence[Point], rounding: Rounding, reference: int = 224) -> list[Member]:
    """Return the network of each point of a published table, its head as the table has it.

    The inputs of the points are those of a base for `reference` pixels, and not rounded any further.
    """
    found = []
    for point in points:
        factors = Factors(point.depth, point.width, point.resolution / reference)
        made = member(base, factors, replace(rounding, resolution_step=1), point.name)
        head = made.architecture.head
        if point.head:
            head = head.with_args(dict(point.head))
        found.append(replace(made, architecture=canonical(replace(made.architecture, head=head))))
    return found


def member_facts(made: Member, base: Architecture) -> dict[str, Any]:
    """Return what is told of a network: what was asked, what rounding made of it, and what it costs.

    `growth` is depth * width^2 * resolution^2 as asked, `macs_ratio` what the MACs really grew by, and `rounding` by
    which share they differ: rounding, and what no rule sees, as a stem that is not repeated or layers that read all
    layers before them.
    """
    arch, own, first = made.architecture, _totals(made.architecture), _totals(base)
    ratio = own.macs / first.macs
    return {
        "name": made.name,
        "phi": made.phi,
        "factors": asdict(made.factors),
        "architecture": arch.digest,
        "resolution": arch.resolution,
        "repeats": [len(stage) for stage in arch.stages],
        "channels": [_channels(stage[-1]) for stage in arch.stages if stage],
        "params": own.params,
        "macs": own.macs,
        "activations": own.activations,
        "macs_ratio": ratio,
        "params_ratio": own.params / first.params,
        "activations_ratio": own.activations / first.activations,
        "growth": made.factors.growth,
        "rounding": ratio / made.factors.growth - 1,
    }


def family_facts(members: Sequence[Member], base: Architecture) -> list[dict[str, Any]]:
    """Return `member_facts` of each; `same_as` names the one before that rounding made the same network of.

    That may be the base, of any factors that are not 1.
    """
    seen = {canonical(base).digest: BASE}
    found = []
    for made in members:
        digest, is_base = made.architecture.digest, made.factors == Factors()
        found.append({**member_facts(made, base), "same_as": None if is_base else seen.get(digest)})
        if is_base or digest not in seen:
            seen[digest] = made.name
    return found


def _channels(spec: BlockSpec) -> int | None:
    """Return the first of the channels that a block names; None for one that keeps those it reads."""
    return next(iter(widths(spec).values()), None)


def _totals(arch: Architecture) -> Totals:
    return totals(trace(arch))
