"""The grid of a coefficient search: values of alpha, beta and gamma, and the network of each combination.

The grid of a detector has one more dimension: the factor of the neck's channels. Neck and head then grow by
EfficientDet's equations 1 and 2, so a point also has one more cell in the neck than the base.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from nas.architecture import Architecture, Scalar
from nas.errors import SpaceError, UsageError
from nas.networks.network import canonical, totals, trace
from nas.scaling.detectors import backbone_macs, rule_sizes, sizes_of
from nas.scaling.presets import NECK_BASES, Coefficients
from nas.scaling.scale import missing_dimensions, scale
from nas.scaling.sizes import DIMENSIONS, DetectorSizes, Factors, Rounding
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.spaces.identity import hex_digest, record_text, tuple_text
from nas.spaces.search_space import Choices, Values
from nas.spaces.trainings import Proxy

MAX_POINTS = 20_000
UNKNOWN_COST_FACTOR = 4000.0
"""A point of unknown cost is assigned the largest known cost times this factor, which is beyond any budget."""


@dataclass(frozen=True)
class Grid:
    """A search space of coefficients; a candidate is the base scaled once by them (phi = 1).

    The choices are called depth, width and resolution, and neck for a detector. A dimension with a single value is not
    a choice.

    Attributes:
        base: The network to scale.
        values: The values of alpha, beta and gamma.
        rounding: How scaled sizes are rounded.
        proxy: The cheap training of the candidates.
        name: The name of the space.
        neck: The factors of the neck's channels; empty if depth and width scale neck and head too.
    """

    base: Architecture
    values: tuple[tuple[float, ...], ...]
    rounding: Rounding
    proxy: Proxy
    name: str = "scaling"
    neck: tuple[float, ...] = ()

    @cached_property
    def key(self) -> str:
        """The name, and 8 hex digits of base, values and rounding."""
        rounding = record_text("Rounding", **{key: repr(value) for key, value in self.rounding.to_dict().items()})
        neck = [repr(self.neck)] if self.neck else []
        text = tuple_text([repr(self.base.digest), repr(self.values), rounding, *neck])
        return f"{self.name}@{hex_digest(text, 8)}"

    @cached_property
    def choices(self) -> dict[str, Values]:
        """The coefficients of each dimension that has more than one."""
        return {key: values for key, values in self.named_values.items() if len(values) > 1}

    @property
    def named_values(self) -> dict[str, tuple[float, ...]]:
        """The coefficients of each dimension."""
        neck = {"neck": self.neck} if self.neck else {}
        return {**dict(zip(DIMENSIONS, self.values, strict=True)), **neck}

    @cached_property
    def sizes(self) -> DetectorSizes | None:
        """The sizes of the base's neck and head; None if the neck has no factors of its own."""
        return rule_sizes(self.base) if self.neck else None

    def coefficients(self, choices: Choices) -> Coefficients:
        """Return the coefficients of choices; a dimension without a choice has 1."""
        neck = float(choices["neck"]) if self.neck else None
        alpha, beta, gamma = (float(choices.get(key, 1.0)) for key in DIMENSIONS)
        return Coefficients(alpha, beta, gamma, neck, sizes=self.sizes)

    def decode(self, choices: Choices) -> Architecture:
        """Return the network of choices. Raises SpaceError if the base cannot be scaled by them."""
        return scale(self.base, self.coefficients(choices).at(1), self.rounding)

    def macs_growth(self, arch: Architecture) -> float:
        """Return how the MACs grew that alpha, beta and gamma scale, to compare with `Coefficients.growth`.

        These are the MACs of the backbone if the neck has factors of its own, else those of the whole network.
        """
        return self._scaled_macs(arch) / self._base_macs

    def _scaled_macs(self, arch: Architecture) -> int:
        return backbone_macs(arch) if self.neck else totals(trace(arch)).macs

    @cached_property
    def _base_macs(self) -> int:
        return self._scaled_macs(self.base)

    def prediction_error(self, choices: Choices, arch: Architecture) -> tuple[float, float]:
        """Return how far the growth of a network is from that of its coefficients: of its MACs, and of its neck."""
        found = self.coefficients(choices)
        error = round(abs(math.log(found.growth / self.macs_growth(arch))), 9)
        if found.neck is None or self.sizes is None:
            return error, 0.0
        channels = (sizes_of(arch) or {})["neck_channels"] or 0
        return error, round(abs(channels / self.sizes.neck_channels - found.neck), 9)

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return choices drawn uniformly."""
        return {key: rng.choice(values) for key, values in self.choices.items()}

    @property
    def size(self) -> int:
        """The number of points; rounding may give several points the same network."""
        return math.prod(len(values) for values in self.named_values.values())

    def enumerate_choices(self) -> Iterator[dict[str, Scalar]]:
        """Yield the choices of every point; the last dimension varies fastest."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))


def make_grid(base: Architecture, step: float, times: float, by_macs: bool, rounding: Rounding, proxy: Proxy) -> Grid:
    """Return a grid from 1 to the values at which one dimension alone uses the whole budget.

    If EfficientDet's rule can scale the neck and the head of the base, the grid has the factors `NECK_BASES` too.

    Args:
        base: The network to scale.
        step: The step between coefficients.
        times: The budget, relative to the base.
        by_macs: Whether the budget counts MACs. Activations and latency may grow more slowly than MACs, so for them
            the grid extends further.
        rounding: How scaled sizes are rounded.
        proxy: The cheap training of the candidates.

    Raises:
        UsageError: If the step gives too many points, or none besides the base.
    """
    if not 0 < step < math.inf:
        raise UsageError("must be above zero", key="step", value=step)
    most = (times, math.sqrt(times), math.sqrt(times)) if by_macs else (1.25 * times, times, times**0.75)
    missing = missing_dimensions(base)
    ends = [1.0 if dimension in missing else end for dimension, end in zip(DIMENSIONS, most, strict=True)]
    neck = NECK_BASES if rule_sizes(base) else ()
    size = math.prod(math.floor(min((end - 1) / step, MAX_POINTS) + 1e-9) + 1 for end in ends)
    if size <= 1:
        raise UsageError("is larger than the allowed growth", key="step", value=step)
    if size * max(1, len(neck)) > MAX_POINTS:  # checked first: the points of a tiny step would fill the memory
        rule = f"makes over {MAX_POINTS:,} points up to {times:g} times the base: use a larger step or smaller --times"
        raise UsageError(rule, key="step", value=step)
    values = tuple(
        tuple(round(1 + index * step, 6) for index in range(math.floor((end - 1) / step + 1e-9) + 1)) for end in ends
    )
    return Grid(base, values, rounding, proxy, neck=neck)


@dataclass(frozen=True)
class GridPoint:
    """A network of the grid, its cost, and the choices that represent it.

    Rounding may give several points the same network. The point whose coefficients come closest to the real growth of
    the MACs, and then of the neck, represents it, because then the growth continues as expected at other phis.

    Attributes:
        choices: The choices.
        architecture: The network, canonical.
        params: Parameters.
        macs: Multiply-accumulate operations.
        activations: Output elements of all convolutions and linear layers.
        layers: Blocks of all stages, also of the neck.
    """

    choices: dict[str, Scalar]
    architecture: Architecture
    params: int
    macs: int
    activations: int
    layers: int


def make_grid_points(grid: Grid, advance: Callable[[int], None]) -> list[GridPoint | None]:
    """Return the network of each point of the grid, in the order of `enumerate_choices`; None if it is invalid.

    `advance` is called for each point, for a progress bar.
    """
    found: dict[str, GridPoint] = {}
    digests: list[str] = []
    decoded: dict[Factors, Architecture | None] = {}  # several factors of the neck round to the same channels

    def prediction_error(point: GridPoint) -> tuple[float, float]:
        return grid.prediction_error(point.choices, point.architecture)

    for choices in grid.enumerate_choices():
        advance(1)
        factors = grid.coefficients(choices).at(1)
        if factors not in decoded:
            decoded[factors] = _decode(grid, choices)
        arch = decoded[factors]
        digests.append(arch.digest if arch else "")
        if arch:
            known = found.get(arch.digest) or make_grid_point(arch, choices)
            found[arch.digest] = min(known, replace(known, choices=choices), key=prediction_error)
    return [found.get(digest) for digest in digests]


def _decode(grid: Grid, choices: Choices) -> Architecture | None:
    """Return the canonical network of choices; None if the base cannot be scaled by them."""
    try:
        return canonical(grid.decode(choices))
    except SpaceError:
        return None


def make_grid_point(arch: Architecture, choices: dict[str, Scalar]) -> GridPoint:
    """Return the point of a canonical network and its choices."""
    whole = totals(trace(arch))
    layers = sum(map(len, (*arch.stages, *arch.neck)))
    return GridPoint(choices, arch, whole.params, whole.macs, whole.activations, layers)


def encode_grid(grid: Grid, points: list[GridPoint | None], cost: Callable[[GridPoint], float]) -> EncodedSpace:
    """Return the grid as a controller sees it.

    Args:
        grid: The grid.
        points: The network of each point, as `make_grid_points` returns them.
        cost: Returns the budgeted cost of a point. Invalid points and points of infinite cost get a large finite
            cost, because controllers standardize the logarithms.
    """
    is_invalid = [point is None for point in points]
    digests = np.array([point.architecture.digest if point else f"none {place}" for place, point in enumerate(points)])
    costs = np.array([cost(point) if point else np.inf for point in points])
    finite = costs[np.isfinite(costs)]
    unknown = UNKNOWN_COST_FACTOR * finite.max() if finite.size else UNKNOWN_COST_FACTOR
    costs = np.where(np.isfinite(costs), costs, unknown)
    sizes = np.array([(point.macs, point.params) if point else (1, 1) for point in points], np.float64)
    widths = [len(values) for values in grid.choices.values()]
    assert len(points) == math.prod(widths) and not all(is_invalid)

    def costs_of(rows: Indices) -> CandidateCosts:
        at = np.ravel_multi_index(tuple(rows.T.astype(np.intp)), tuple(widths))
        return CandidateCosts(digests[at], costs[at], np.log(sizes[at]))

    return EncodedSpace(grid.choices, costs_of, {}, ("macs", "params"))
