"""The grid of coefficients as what a search walks: every point with the network that it makes of the base."""

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
from nas.scaling.presets import Coefficients
from nas.scaling.scale import DIMENSIONS, Factors, Rounding, missing_dimensions, scale
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.spaces.identity import hex_digest, record_text, tuple_text
from nas.spaces.search_space import Choices, Proxy, Values

LARGEST = 20_000
FAR = 4000.0
"""Where it is not known what a point spends, it is so many times the most that is known: beyond any budget."""


@dataclass(frozen=True)
class Grid:
    """Values of alpha, beta and gamma; a candidate is the base scaled once by them (phi = 1).

    The choices are called depth, width and resolution; a dimension of one value is no choice.
    """

    base: Architecture
    values: tuple[tuple[float, ...], ...]
    rounding: Rounding
    proxy: Proxy
    name: str = "scaling"

    @cached_property
    def key(self) -> str:
        """The name and 8 digits of base, values and rounding."""
        rounding = record_text("Rounding", **{key: repr(value) for key, value in vars(self.rounding).items()})
        text = tuple_text([repr(self.base.digest), repr(self.values), rounding])
        return f"{self.name}@{hex_digest(text, 8)}"

    @cached_property
    def choices(self) -> dict[str, Values]:
        """The dimensions with their coefficients."""
        return {key: values for key, values in zip(DIMENSIONS, self.values, strict=True) if len(values) > 1}

    def coefficients(self, choices: Choices) -> Coefficients:
        """Return the coefficients of choices; those of a dimension without a choice are 1."""
        return Coefficients(*(float(choices.get(key, 1.0)) for key in DIMENSIONS))

    def decode(self, choices: Choices) -> Architecture:
        """Return the network of choices. Raises SpaceError where the base cannot be scaled so."""
        found = self.coefficients(choices)
        return scale(self.base, Factors(found.alpha, found.beta, found.gamma), self.rounding)

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Return choices, each drawn uniformly."""
        return {key: rng.choice(values) for key, values in self.choices.items()}

    @property
    def size(self) -> int:
        """How many points there are; rounding makes equal networks of some."""
        return math.prod(len(values) for values in self.values)

    def points(self) -> Iterator[dict[str, Scalar]]:
        """Yield every point, the last dimension fastest."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))


def make_grid(base: Architecture, step: float, times: float, by_macs: bool, rounding: Rounding, proxy: Proxy) -> Grid:
    """Return the grid from 1 to where one dimension alone takes `times` the MACs; further for other resources.

    Activations and latency may grow slower than MACs do. Raises UsageError for a step that makes too many points, or
    none beside the base.
    """
    if not 0 < step < math.inf:
        raise UsageError(f"--step: must be above zero: {step:g}")
    most = (times, math.sqrt(times), math.sqrt(times)) if by_macs else (1.25 * times, times, times**0.75)
    missing = missing_dimensions(base)
    ends = [1.0 if dimension in missing else end for dimension, end in zip(DIMENSIONS, most, strict=True)]
    size = math.prod(math.floor(min((end - 1) / step, LARGEST) + 1e-9) + 1 for end in ends)
    if not 1 < size <= LARGEST:  # told before anything is made: a tiny step would fill the memory with points
        many = f"makes more than {LARGEST:,} points up to {times:g} times the base, give a larger one or less --times"
        raise UsageError(f"--step: {many if size > 1 else 'is over what may grow'}: {step:g}")
    values = tuple(
        tuple(round(1 + index * step, 6) for index in range(math.floor((end - 1) / step + 1e-9) + 1)) for end in ends
    )
    return Grid(base, values, rounding, proxy)


@dataclass(frozen=True)
class GridPoint:
    """A network of the grid, canonical, what it costs, and the point that stands for it.

    Rounding makes one network of many points. The one stands for it whose coefficients promise the growth of the MACs
    that the network really has: raised to another phi, they go on as they began.
    """

    choices: dict[str, Scalar]
    architecture: Architecture
    params: int
    macs: int
    activations: int
    layers: int


def grid_points(grid: Grid, advance: Callable[[int], None]) -> list[GridPoint | None]:
    """Return what each point of the grid makes, in the order of `points`; None where the base cannot be scaled so."""
    made: dict[str, GridPoint] = {}
    digests: list[str] = []
    base = totals(trace(grid.base)).macs

    def misses(spot: GridPoint) -> float:
        return round(abs(math.log(grid.coefficients(spot.choices).at(1).growth / (spot.macs / base))), 9)

    for choices in grid.points():
        advance(1)
        try:
            arch = canonical(grid.decode(choices))
        except SpaceError:
            digests.append("")
            continue
        digests.append(arch.digest)
        known = made.get(arch.digest) or grid_point(arch, choices)
        made[arch.digest] = min(known, replace(known, choices=choices), key=misses)
    return [made.get(digest) for digest in digests]


def grid_point(arch: Architecture, choices: dict[str, Scalar]) -> GridPoint:
    """Return a canonical network as what the choices make."""
    whole = totals(trace(arch))
    return GridPoint(choices, arch, whole.params, whole.macs, whole.activations, sum(map(len, arch.stages)))


def grid_domain(grid: Grid, each: list[GridPoint | None], spends: Callable[[GridPoint], float]) -> EncodedSpace:
    """Return the grid for a controller: what each point spends, far too much where nothing can be made of it.

    Finite all the same, also where `spends` says infinity: controllers standardise the logarithms.
    """
    empty = [spot is None for spot in each]
    digests = np.array([spot.architecture.digest if spot else f"none {place}" for place, spot in enumerate(each)])
    spent = np.array([spends(spot) if spot else np.inf for spot in each])
    finite = spent[np.isfinite(spent)]
    spent = np.where(np.isfinite(spent), spent, FAR * finite.max() if finite.size else FAR)
    sizes = np.array([(spot.macs, spot.params) if spot else (1, 1) for spot in each], np.float64)
    widths = [len(values) for values in grid.choices.values()]
    assert len(each) == math.prod(widths) and not all(empty)

    def facts(rows: Indices) -> CandidateCosts:
        at = np.ravel_multi_index(tuple(rows.T.astype(np.intp)), tuple(widths))
        return CandidateCosts(digests[at], spent[at], np.log(sizes[at]))

    return EncodedSpace(grid.choices, facts, {}, ("macs", "params"))
