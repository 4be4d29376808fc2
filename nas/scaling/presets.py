"""Published scaling rules and families, as data: coefficients, tables of factors, roundings, budgets of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product

from nas.architecture import Scalar
from nas.scaling.scale import DIMENSIONS, Factors, Rounding


@dataclass(frozen=True)
class Coefficients:
    """alpha, beta and gamma: depth, width and resolution are multiplied with them once for each unit of phi."""

    alpha: float
    beta: float
    gamma: float

    def at(self, phi: float) -> Factors:
        """Return alpha^phi, beta^phi, gamma^phi (EfficientNet, section 3.3, equation 3)."""
        return Factors(*(_power(base, phi) for base in (self.alpha, self.beta, self.gamma)))

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that the rule scales."""
        return [name for name in DIMENSIONS if getattr(self.at(1), name) != 1]


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:  # refused as a factor, in one line
        return math.inf


@dataclass(frozen=True)
class Point:
    """A published network: factors of depth and width, the input in pixels, and what the head has otherwise."""

    name: str
    depth: float
    width: float
    resolution: int
    head: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True)
class Preset:
    """A rule (`coefficients`), a published family (`points`), how both round, and what a search for it budgets.

    `budget` and `objective` are the search's; without them it is that of the command. Inputs of points are those of
    a base for `reference` pixels, and in proportion of another.
    """

    about: str
    source: str
    coefficients: Coefficients | None = None
    points: tuple[Point, ...] = ()
    reference: int = 224
    rounding: Rounding = field(default_factory=Rounding)
    budget: str = ""
    objective: str = ""


EXACT = Rounding(resolution_step=1)
MOBILE = Rounding(resolution_step=1, head="never narrower")
FAST = Rounding(repeats="round", resolution_step=4)


def of_total(depth: float, width: float, resolution: float) -> Coefficients:
    """Return the coefficients of Dollar et al.: shares of a doubling's exponent (2021, section 4; they add to 1).

    d = s^e_d, w = s^(e_w / 2), r = s^(e_r / 2) for s times the MACs, so that d * w^2 * r^2 = s.
    """
    return Coefficients(2.0**depth, 2.0 ** (width / 2), 2.0 ** (resolution / 2))


def _named(name: str, rows: str, dropout: str = "") -> tuple[Point, ...]:
    """Return points from rows of "width,depth,resolution", numbered from 0, with the head's dropouts."""
    rates = dropout.split() or [""] * len(rows.split())
    found = []
    for number, (row, rate) in enumerate(zip(rows.split(), rates, strict=True)):
        width, depth, resolution = row.split(",")
        head: tuple[tuple[str, Scalar], ...] = (("dropout", float(rate)),) if rate else ()
        found.append(Point(f"{name}{number}", float(depth), float(width), int(resolution), head))
    return tuple(found)


def _multipliers(widths: tuple[float, ...], resolutions: tuple[int, ...]) -> tuple[Point, ...]:
    return tuple(Point(f"{width:g}-{size}", 1.0, width, size) for width, size in product(widths, resolutions))


PRESETS: dict[str, Preset] = {
    "efficientnet": Preset(
        "B0 to B7 as shipped (no powers of 1.2, 1.1, 1.15); with --phi the paper's rule",
        "https://arxiv.org/abs/1905.11946, section 3.3; tensorflow/tpu efficientnet_builder.py",
        Coefficients(1.2, 1.1, 1.15),
        _named(
            "b",
            "1,1,224 1,1.1,240 1.1,1.2,260 1.2,1.4,300 1.4,1.8,380 1.6,2.2,456 1.8,2.6,528 2,3.1,600",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT,
        budget="macs",
        objective="constrained",
    ),
    "efficientnet_x_tpu": Preset(
        "EfficientNet-X's factors and dropouts on TPUs, b0 to b7, for any base; its blocks are not among ours",
        "https://arxiv.org/abs/2102.05610; tensorflow/tpu efficientnet_x builder",
        None,
        _named(
            "b",
            "1,1,224 1.05,1.09,229 1.13,1.29,244 1.27,1.62,263 1.54,2.38,299 1.96,2.76,332 2.75,3.01,328 3.26,3.44,350",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT,
    ),
    "efficientnet_x_gpu": Preset(
        "EfficientNet-X's factors and dropouts on GPUs, b0 to b7, for any base; its blocks are not among ours",
        "https://arxiv.org/abs/2102.05610; tensorflow/tpu efficientnet_x builder",
        None,
        _named(
            "b",
            "1,1,224 1.05,1.09,229 1.13,1.24,237 1.31,1.63,255 1.63,2.40,282 1.94,3.29,306 2.25,4.28,328 2.58,5.46,350",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT,
    ),
    "latency_aware": Preset(
        "latency-aware compound scaling: no rule, a search that budgets the device's latency",
        "https://arxiv.org/abs/2102.05610, section 4",
        budget="latency",
        objective="soft",
    ),
    "dWr": Preset(
        "fast compound scaling, alpha 0.8: mostly width, so that activations grow with the root of the MACs",
        "https://arxiv.org/abs/2103.06877, section 5; pycls scaler.py, d1_w8_g8_r1",
        of_total(0.1, 0.8, 0.1),
        rounding=FAST,
        budget="activations",
    ),
    "uniform": Preset(
        "uniform compound scaling: a third of the growth to each dimension",
        "https://arxiv.org/abs/2103.06877, section 4",
        of_total(1 / 3, 1 / 3, 1 / 3),
        rounding=FAST,
    ),
    "depth": Preset("depth alone", "https://arxiv.org/abs/1905.11946, section 3.2", of_total(1, 0, 0)),
    "width": Preset("width alone", "https://arxiv.org/abs/1905.11946, section 3.2", of_total(0, 1, 0)),
    "resolution": Preset("resolution alone", "https://arxiv.org/abs/1905.11946, section 3.2", of_total(0, 0, 1)),
    "mobilenet_v1": Preset(
        "MobileNetV1's width and resolution multipliers",
        "https://arxiv.org/abs/1704.04861, section 3.3 and 3.4",
        points=_multipliers((0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224)),
        rounding=MOBILE,
    ),
    "mobilenet_v2": Preset(
        "MobileNetV2's width and resolution multipliers",
        "https://arxiv.org/abs/1801.04381, section 5; TF-slim mobilenet_v2",
        points=(*_multipliers((0.35, 0.5, 0.75, 1.0), (96, 128, 160, 192, 224)), *_multipliers((1.4,), (224,))),
        rounding=MOBILE,
    ),
    "mobilenet_v3": Preset(
        "MobileNetV3's width and resolution multipliers",
        "https://arxiv.org/abs/1905.02244, section 6.1, figure 2",
        points=(
            *_multipliers((0.35, 0.5, 0.75, 1.0, 1.25), (224,)),
            *_multipliers((1.0,), (96, 128, 160, 192, 256)),
        ),
        rounding=MOBILE,
    ),
    "mnasnet": Preset(
        "MnasNet's width and resolution multipliers",
        "https://arxiv.org/abs/1807.11626, table 4; tensorflow/tpu mnasnet_models.py",
        points=(*_multipliers((0.35, 0.5, 0.75, 1.0, 1.4), (224,)), *_multipliers((1.0,), (96, 128, 160, 192))),
        rounding=Rounding(resolution_step=1, head="fixed"),
    ),
}
"""By name. To add one: write it here."""
