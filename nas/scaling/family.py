"""Families of scaled networks: their members, and the cost of each relative to the base."""

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
    """A network of a family.

    Attributes:
        name: Its name in the family: "phi 1", "b3".
        factors: The factors before rounding.
        architecture: The scaled network, canonical.
        phi: The phi of the scaling rule; None if the factors come from a table or from the user.
    """

    name: str
    factors: Factors
    architecture: Architecture
    phi: float | None = None


def make_member(
    base: Architecture, factors: Factors, rounding: Rounding, name: str, phi: float | None = None
) -> Member:
    """Return the base scaled by the factors. Raises SpaceError with the member's name as `where`."""
    try:
        arch = canonical(scale(base, factors, rounding))
    except SpaceError as error:
        raise SpaceError(error.rule, where=name, key=error.key, value=error.value) from error
    return Member(name, factors, arch, phi)


def members_by_phi(
    base: Architecture, coefficients: Coefficients, phis: Sequence[float], rounding: Rounding
) -> list[Member]:
    """Return the network of each phi: about 2^phi times the base's MACs if alpha * beta^2 * gamma^2 is 2."""
    return [make_member(base, coefficients.at(phi), rounding, f"phi {phi:.12g}", phi) for phi in phis]


def last_valid_phi(base: Architecture, coefficients: Coefficients, phi: float, rounding: Rounding) -> float:
    """Return about the last phi between 0 and the invalid `phi` that gives a valid network, by bisection."""
    valid, invalid = 0.0, phi
    while abs(invalid - valid) > 0.002 * max(1.0, abs(valid)):
        middle = (valid + invalid) / 2
        try:
            scale(base, coefficients.at(middle), rounding)
            valid = middle
        except SpaceError:
            invalid = middle
    return valid


def members_by_points(
    base: Architecture, points: Sequence[Point], rounding: Rounding, reference: int = 224
) -> list[Member]:
    """Return the network of each point of a table, with the head arguments that the table gives.

    The resolutions of the points hold for a base of `reference` pixels and are not rounded further.
    """
    members = []
    for point in points:
        factors = Factors(point.depth, point.width, point.resolution / reference)
        member = make_member(base, factors, replace(rounding, resolution_step=1), point.name)
        head = member.architecture.head
        if point.head:
            head = head.with_args(dict(point.head))
        members.append(replace(member, architecture=canonical(replace(member.architecture, head=head))))
    return members


def describe_member(member: Member, base: Architecture) -> dict[str, Any]:
    """Return the entry of a network in a result file: factors, sizes after rounding, and cost.

    `growth` is the exact depth * width^2 * resolution^2, and `macs_ratio` the real growth of the MACs. `rounding` is
    their relative difference: rounding, plus what the formula ignores, such as a stem that is not repeated or layers
    that read all previous layers.
    """
    arch, own, first = member.architecture, _totals(member.architecture), _totals(base)
    ratio = own.macs / first.macs
    return {
        "name": member.name,
        "phi": member.phi,
        "factors": asdict(member.factors),
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
        "growth": member.factors.growth,
        "rounding": ratio / member.factors.growth - 1,
    }


def describe_family(members: Sequence[Member], base: Architecture) -> list[dict[str, Any]]:
    """Return `describe_member` of each member.

    `same_as` names an earlier member, or the base, that rounding made the same network of; else it is None.
    """
    seen = {canonical(base).digest: BASE}
    entries = []
    for member in members:
        digest, is_base = member.architecture.digest, member.factors == Factors()
        entries.append({**describe_member(member, base), "same_as": None if is_base else seen.get(digest)})
        if is_base or digest not in seen:
            seen[digest] = member.name
    return entries


def _channels(spec: BlockSpec) -> int | None:
    """Return the first channel argument of a block; None if the block keeps its input channels."""
    return next(iter(widths(spec).values()), None)


def _totals(arch: Architecture) -> Totals:
    return totals(trace(arch))
