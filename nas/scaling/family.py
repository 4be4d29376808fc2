"""Families of scaled networks: their members, and the cost of each relative to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nas.architecture import Architecture, BlockSpec, Scalar
from nas.errors import SpaceError
from nas.networks.block_schema import arguments, widths
from nas.networks.network import Totals, canonical, totals, trace
from nas.scaling.detectors import is_detector, sizes_of
from nas.scaling.presets import Point, ScalingRule
from nas.scaling.scale import scale
from nas.scaling.sizes import Factors, Rounding

BASE = "base"


@dataclass(frozen=True)
class Member:
    """A network of a family.

    Attributes:
        name: Its name in the family: "phi 1", "b3".
        factors: The factors before rounding.
        architecture: The scaled network, canonical.
        phi: The phi of the scaling rule; None if the factors come from a table or from the user.
        deviations: Sizes of a table's network that differ from the rule of the table, each with the rule's value.
    """

    name: str
    factors: Factors
    architecture: Architecture
    phi: float | None = None
    deviations: Mapping[str, tuple[Scalar, Scalar]] = field(default_factory=dict)


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
    base: Architecture, coefficients: ScalingRule, phis: Sequence[float], rounding: Rounding
) -> list[Member]:
    """Return the network of each phi: about 2^phi times the base's MACs if alpha * beta^2 * gamma^2 is 2."""
    return [make_member(base, coefficients.at(phi), rounding, f"phi {phi:.12g}", phi) for phi in phis]


def last_valid_phi(base: Architecture, coefficients: ScalingRule, phi: float, rounding: Rounding) -> float:
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
    base: Architecture,
    points: Sequence[Point],
    rounding: Rounding,
    reference: int = 224,
    rule: ScalingRule | None = None,
) -> list[Member]:
    """Return the network of each point of a table, with the arguments of neck and head that the table gives.

    The resolutions of the points hold for a base of `reference` pixels and are not rounded further. `rule` is the rule
    of the table; the members name what differs from it. The head of a detector gets only those arguments of a
    classifier's table that it has.
    """
    members = []
    for point in points:
        member = make_member(base, point.factors(reference), replace(rounding, resolution_step=1), point.name)
        arch = member.architecture
        neck = tuple(tuple(_with_known(spec, dict(point.neck)) for spec in stage) for stage in arch.neck)
        args = dict(point.head)
        head = _with_known(arch.head, args) if is_detector(arch) else arch.head.with_args(args)
        arch = canonical(replace(arch, neck=neck, head=head))
        members.append(replace(member, architecture=arch, deviations=deviations(point, rule, base, reference)))
    return members


def _with_known(spec: BlockSpec, args: Mapping[str, Scalar]) -> BlockSpec:
    """Return a block with those arguments that are keywords of it."""
    return spec.with_args({key: value for key, value in args.items() if key in arguments(spec)})


def deviations(
    point: Point, rule: ScalingRule | None, base: Architecture, reference: int
) -> dict[str, tuple[Scalar, Scalar]]:
    """Return the sizes of a table's network that differ from the rule at its phi, as {name: (table, rule)}.

    Empty if the point has no phi. The arguments of the neck that the table sets are compared with those of the base.
    """
    if point.phi is None or rule is None:
        return {}
    own, by_rule = (_named_sizes(factors, reference) for factors in (point.factors(reference), rule.at(point.phi)))
    first = {key: value for stage in base.neck for spec in stage for key, value in arguments(spec).items()}
    own, by_rule = own | dict(point.neck), by_rule | {key: first[key] for key, _ in point.neck if key in first}
    return {key: (value, by_rule[key]) for key, value in own.items() if key in by_rule and value != by_rule[key]}


def _named_sizes(factors: Factors, reference: int) -> dict[str, Scalar]:
    """Return the sizes of factors by name: factors of the backbone, and pixels for a base of `reference` pixels."""
    sizes = asdict(factors.detector) if factors.detector else {}
    backbone = {"backbone_depth": factors.depth, "backbone_width": factors.width}
    return {"resolution": round(factors.resolution * reference), **backbone, **sizes}


def describe_member(member: Member, base: Architecture) -> dict[str, Any]:
    """Return the entry of a network in a result file: factors, sizes after rounding, and cost.

    `growth` is the exact depth * width^2 * resolution^2, and `macs_ratio` the real growth of the MACs. `rounding` is
    their relative difference: rounding, plus what the formula ignores, such as a stem that is not repeated or layers
    that read all previous layers. Only detectors have `detector`, the sizes of neck and head. Only networks of a table
    that leaves its rule have `deviations`: [table, rule] by size.
    """
    arch, own, first = member.architecture, _totals(member.architecture), _totals(base)
    ratio = own.macs / first.macs
    return {
        "name": member.name,
        "phi": member.phi,
        "factors": member.factors.to_dict(),
        "architecture": arch.digest,
        "resolution": arch.input_size,
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
        **({"detector": sizes_of(arch)} if is_detector(arch) else {}),
        **({"deviations": {key: list(pair) for key, pair in member.deviations.items()}} if member.deviations else {}),
    }


def describe_family(members: Sequence[Member], base: Architecture) -> list[dict[str, Any]]:
    """Return `describe_member` of each member.

    `same_as` names an earlier member, or the base, that rounding made the same network of; else it is None.
    """
    seen = {canonical(base).digest: BASE}
    entries = []
    for member in members:
        digest = member.architecture.digest
        is_unit = replace(member.factors, detector=None) == Factors()
        is_base = member.factors == Factors() or (is_unit and digest == canonical(base).digest)
        entries.append({**describe_member(member, base), "same_as": None if is_base else seen.get(digest)})
        if is_base or digest not in seen:
            seen[digest] = member.name
    return entries


def _channels(spec: BlockSpec) -> int | None:
    """Return the first channel argument of a block; None if the block keeps its input channels."""
    return next(iter(widths(spec).values()), None)


def _totals(arch: Architecture) -> Totals:
    return totals(trace(arch))
