"""Sizes of scaled networks: the factors of each dimension, and how layers and channels become whole numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nas.architecture import BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import traits, widths
from nas.networks.blocks.layers import make_divisible

DIMENSIONS = ("depth", "width", "resolution")
MAX_SIZES = {"depth": 1_000, "width": 100_000, "resolution": 20_000}
"""Upper limits for layers of a stage, channels of a block and pixels of the input; larger factors are typing errors."""
SLACK = 1e-9
"""Tolerance when rounding up: floating-point error must not add a layer."""

Head = Literal["scaled", "never narrower", "fixed"]


@dataclass(frozen=True)
class Rounding:
    """How scaled sizes become whole numbers.

    Attributes:
        divisor: Channels are multiples of it, and at most 10 % below the exact value (TF-slim's make_divisible). A
            multiple of the divisor is used where the groups of a block need it.
        repeats: "ceil" rounds the repeats of a stage up (EfficientNet), "round" to the nearest (Dollar et al. 2021).
        resolution_step: The input is a multiple of it, in pixels; 0 selects `default_resolution_step`.
        head: What happens to the last channels before the classifier: "scaled", "never narrower" than in the base
            (MobileNetV2 and V3) or "fixed".
        ends: "fixed" keeps the channels of the stem, and the repeats of the first and the last group after it
            (EfficientNet-Lite).
    """

    divisor: int = 8
    repeats: Literal["ceil", "round"] = "ceil"
    resolution_step: int = 0
    head: Head = "scaled"
    ends: Literal["scaled", "fixed"] = "scaled"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; `ends` only if it is not the default, so that identities from before stay valid."""
        return {key: value for key, value in asdict(self).items() if key != "ends" or value != "scaled"}


@dataclass(frozen=True)
class DetectorSizes:
    """Sizes of a detector's neck and head, as EfficientDet's table gives them (Tan et al. 2020, table 1).

    Attributes:
        neck_channels: Channels of the neck.
        neck_cells: The number of repeats of the neck's cell.
        head_layers: The number of convolutions before the predictors.
    """

    neck_channels: int
    neck_cells: int
    head_layers: int


@dataclass(frozen=True)
class Factors:
    """Factors of depth, width and resolution, relative to the base.

    Attributes:
        depth: Factor of the repeats.
        width: Factor of the channels.
        resolution: Factor of the input.
        detector: The sizes of neck and head; None if depth and width scale them too.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0
    detector: DetectorSizes | None = None

    @property
    def growth(self) -> float:
        """The growth of the MACs before rounding: depth * width^2 * resolution^2 (EfficientNet, section 3.3)."""
        return self.depth * self.width**2 * self.resolution**2

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; `detector` only if it is given."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def checked_product(dimension: str, factor: float, value: int, unit: str) -> float:
    """Return `factor * value`. Raises SpaceError above the dimension's upper limit."""
    if factor * value > MAX_SIZES[dimension]:
        raise SpaceError(f"{factor:g} times {value} {unit} is over {MAX_SIZES[dimension]:,}", key=dimension)
    return factor * value


def scaled_count(factor: float, layers: int, where: str, rounding: Rounding) -> int:
    """Return `factor` times a number of layers, rounded. Raises SpaceError if none is left."""
    exact = checked_product("depth", factor, layers, "layers")
    count = math.ceil(exact - SLACK) if rounding.repeats == "ceil" else int(exact + 0.5)
    if count < 1:
        raise SpaceError(f"{factor:g} times the {layers} layers of {where} leaves none", key="depth")
    return count


def can_repeat(layers: Sequence[BlockSpec]) -> bool:
    """Whether the depth may repeat layers: not a layer that only connects two stages."""
    if not all(traits(spec.op).repeatable for spec in layers):
        return False
    has_skip = layers[0].kwargs.get("skip", "none") != "none"
    return len(layers) > 1 or has_skip or traits(layers[0].op).repeats_alone


def widen_block(
    spec: BlockSpec, factor: float, step: int, fixed: Collection[str] = (), nearest: bool = False
) -> BlockSpec:
    """Return a block with its channels times `factor`, rounded to multiples of `step`.

    Channels named in `fixed` do not change. `nearest` rounds to the nearest multiple without the 10 % rule, which is
    meant for small steps.
    """
    wide = {}
    for key, value in widths(spec).items():
        if key in fixed:
            continue
        exact = checked_product("width", factor, int(value), key)
        if exact < 1:
            raise SpaceError(f"{factor:g} times the {value} {key} of '{spec.op}' leaves none", key="width")
        wide[key] = max(step, int(exact / step + 0.5) * step) if nearest else make_divisible(exact, step)
        if wide[key] > MAX_SIZES["width"]:
            raise SpaceError(f"{wide[key]:,} channels are over {MAX_SIZES['width']:,}", key="width")
        if factor < 1:  # the minimum of one step must not make a narrower network wider
            wide[key] = min(wide[key], int(value))
        elif wide[key] < int(value):  # a large step must not make a wider network narrower
            wide[key] += step
    return spec.with_args(wide)
