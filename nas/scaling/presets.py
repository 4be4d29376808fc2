"""Published scaling rules and families, as data: coefficients, tables of factors, roundings and search budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product

from nas.architecture import Scalar
from nas.scaling.scale import DIMENSIONS, Factors, Rounding


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a compound scaling rule: the factors of each dimension for one unit of phi.

    Attributes:
        alpha: Factor of the depth.
        beta: Factor of the width.
        gamma: Factor of the resolution.
    """

    alpha: float
    beta: float
    gamma: float

    def at(self, phi: float) -> Factors:
        """Return the factors alpha^phi, beta^phi and gamma^phi (EfficientNet, section 3.3, equation 3)."""
        return Factors(*(_power(base, phi) for base in (self.alpha, self.beta, self.gamma)))

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that the rule scales."""
        return [name for name in DIMENSIONS if getattr(self.at(1), name) != 1]


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:  # `scale` refuses it as a factor
        return math.inf


@dataclass(frozen=True)
class Point:
    """A network of a published table.

    Attributes:
        name: Its name in the table.
        depth: Factor of the depth.
        width: Factor of the width.
        resolution: The input in pixels.
        head: Arguments of the head that differ from the base.
    """

    name: str
    depth: float
    width: float
    resolution: int
    head: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True)
class Preset:
    """A published rule or family, or the settings of a search for a rule.

    Attributes:
        about: One line for `nas list presets`.
        source: The paper, with its section, and the code.
        coefficients: The rule; None if there is none.
        points: The published family; empty if there is none.
        reference: The base resolution, in pixels, for which the points' resolutions hold; another base scales them.
        rounding: How scaled sizes are rounded.
        budget: The budgeted resource of a search; empty if the preset is not for a search.
        objective: The objective of a search; empty for the command's default.
    """

    about: str
    source: str
    coefficients: Coefficients | None = None
    points: tuple[Point, ...] = ()
    reference: int = 224
    rounding: Rounding = field(default_factory=Rounding)
    budget: str = ""
    objective: str = ""


EXACT_PIXELS = Rounding(resolution_step=1)
MOBILENET = Rounding(resolution_step=1, head="never narrower")
FAST_SCALING = Rounding(repeats="round", resolution_step=4)


def from_exponents(depth: float, width: float, resolution: float) -> Coefficients:
    """Return the coefficients of Dollar et al. (2021, section 4) for a doubling of the MACs at each phi.

    The arguments are the exponents e_d, e_w and e_r, which sum to 1. For s times the MACs: d = s^e_d, w = s^(e_w / 2)
    and r = s^(e_r / 2), so that d * w^2 * r^2 = s.
    """
    return Coefficients(2.0**depth, 2.0 ** (width / 2), 2.0 ** (resolution / 2))


def _numbered_points(name: str, rows: str, dropout: str = "") -> tuple[Point, ...]:
    """Return the points of rows "width,depth,resolution", numbered from 0, each with the dropout rate of its head."""
    rates = dropout.split() or [""] * len(rows.split())
    found = []
    for number, (row, rate) in enumerate(zip(rows.split(), rates, strict=True)):
        width, depth, resolution = row.split(",")
        head: tuple[tuple[str, Scalar], ...] = (("dropout", float(rate)),) if rate else ()
        found.append(Point(f"{name}{number}", float(depth), float(width), int(resolution), head))
    return tuple(found)


def _multiplied(widths: tuple[float, ...], resolutions: tuple[int, ...]) -> tuple[Point, ...]:
    return tuple(Point(f"{width:g}-{size}", 1.0, width, size) for width, size in product(widths, resolutions))


PRESETS: dict[str, Preset] = {
    "efficientnet": Preset(
        "B0 to B7 as released (not powers of 1.2, 1.1, 1.15); with --phi, the paper's rule",
        "https://arxiv.org/abs/1905.11946, section 3.3; tensorflow/tpu efficientnet_builder.py",
        Coefficients(1.2, 1.1, 1.15),
        _numbered_points(
            "b",
            "1,1,224 1,1.1,240 1.1,1.2,260 1.2,1.4,300 1.4,1.8,380 1.6,2.2,456 1.8,2.6,528 2,3.1,600",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT_PIXELS,
        budget="macs",
        objective="constrained",
    ),
    "efficientnet_x_tpu": Preset(
        "EfficientNet-X's factors and dropouts on TPUs, b0 to b7, for any base (its blocks are not available)",
        "https://arxiv.org/abs/2102.05610; tensorflow/tpu efficientnet_x builder",
        None,
        _numbered_points(
            "b",
            "1,1,224 1.05,1.09,229 1.13,1.29,244 1.27,1.62,263 1.54,2.38,299 1.96,2.76,332 2.75,3.01,328 3.26,3.44,350",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT_PIXELS,
    ),
    "efficientnet_x_gpu": Preset(
        "EfficientNet-X's factors and dropouts on GPUs, b0 to b7, for any base (its blocks are not available)",
        "https://arxiv.org/abs/2102.05610; tensorflow/tpu efficientnet_x builder",
        None,
        _numbered_points(
            "b",
            "1,1,224 1.05,1.09,229 1.13,1.24,237 1.31,1.63,255 1.63,2.40,282 1.94,3.29,306 2.25,4.28,328 2.58,5.46,350",
            ".2 .2 .3 .3 .4 .4 .5 .5",
        ),
        rounding=EXACT_PIXELS,
    ),
    "latency_aware": Preset(
        "latency-aware compound scaling: no rule, but a search with a budget for the device's latency",
        "https://arxiv.org/abs/2102.05610, section 4",
        budget="latency",
        objective="soft",
    ),
    "dWr": Preset(
        "fast compound scaling, alpha 0.8: mostly width, so that activations grow with the square root of the MACs",
        "https://arxiv.org/abs/2103.06877, section 5; pycls scaler.py, d1_w8_g8_r1",
        from_exponents(0.1, 0.8, 0.1),
        rounding=FAST_SCALING,
        budget="activations",
    ),
    "uniform": Preset(
        "uniform compound scaling: each dimension gets a third of the growth",
        "https://arxiv.org/abs/2103.06877, section 4",
        from_exponents(1 / 3, 1 / 3, 1 / 3),
        rounding=FAST_SCALING,
    ),
    "depth": Preset("depth alone", "https://arxiv.org/abs/1905.11946, section 3.2", from_exponents(1, 0, 0)),
    "width": Preset("width alone", "https://arxiv.org/abs/1905.11946, section 3.2", from_exponents(0, 1, 0)),
    "resolution": Preset("resolution alone", "https://arxiv.org/abs/1905.11946, section 3.2", from_exponents(0, 0, 1)),
    "mobilenet_v1": Preset(
        "MobileNetV1's width and resolution multipliers",
        "https://arxiv.org/abs/1704.04861, section 3.3 and 3.4",
        points=_multiplied((0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224)),
        rounding=MOBILENET,
    ),
    "mobilenet_v2": Preset(
        "MobileNetV2's width and resolution multipliers",
        "https://arxiv.org/abs/1801.04381, section 5; TF-slim mobilenet_v2",
        points=(
            *_multiplied((0.35, 0.5, 0.75, 1.0), (96, 128, 160, 192, 224)),
            *_multiplied((1.4,), (224,)),
        ),
        rounding=MOBILENET,
    ),
    "mobilenet_v3": Preset(
        "MobileNetV3's width and resolution multipliers",
        "https://arxiv.org/abs/1905.02244, section 6.1, figure 2",
        points=(
            *_multiplied((0.35, 0.5, 0.75, 1.0, 1.25), (224,)),
            *_multiplied((1.0,), (96, 128, 160, 192, 256)),
        ),
        rounding=MOBILENET,
    ),
    "mnasnet": Preset(
        "MnasNet's width and resolution multipliers",
        "https://arxiv.org/abs/1807.11626, table 4; tensorflow/tpu mnasnet_models.py",
        points=(
            *_multiplied((0.35, 0.5, 0.75, 1.0, 1.4), (224,)),
            *_multiplied((1.0,), (96, 128, 160, 192)),
        ),
        rounding=Rounding(resolution_step=1, head="fixed"),
    ),
}
"""All presets by name. Add a preset by adding an entry here."""
