"""Published scaling rules and families, as data: coefficients, tables of factors, roundings and search budgets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from nas.architecture import Scalar
from nas.errors import SpaceError
from nas.scaling.sizes import DIMENSIONS, MAX_SIZES, DetectorSizes, Factors, Rounding


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a compound scaling rule: the factors of each dimension for one unit of phi.

    Attributes:
        alpha: Factor of the depth.
        beta: Factor of the width.
        gamma: Factor of the resolution.
        neck: Factor of the channels of a detector's neck. With it, neck and head grow by EfficientDet's equations 1
            and 2, see `grown_sizes`, and alpha and beta scale the backbone alone. None: they scale neck and head too.
        sizes: The sizes of the base's neck and head, from which `neck` starts.
    """

    alpha: float
    beta: float
    gamma: float
    neck: float | None = None
    sizes: DetectorSizes | None = field(default=None, kw_only=True)

    def at(self, phi: float) -> Factors:
        """Return the factors alpha^phi, beta^phi and gamma^phi (EfficientNet, section 3.3, equation 3).

        With `neck`, also the sizes of neck and head. Raises SpaceError above the upper limit of the channels.
        """
        detector = None
        if self.neck is not None:
            assert self.sizes is not None, "`neck` needs the sizes of the base"
            detector = grown_sizes(self.sizes, self.neck, phi)
        return Factors(_power(self.alpha, phi), _power(self.beta, phi), _power(self.gamma, phi), detector)

    @property
    def growth(self) -> float:
        """The growth of the MACs for one unit of phi, before rounding; with `neck`, of those of the backbone."""
        return Factors(self.alpha, self.beta, self.gamma).growth

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that the rule scales."""
        factors = (self.alpha, self.beta, self.gamma)
        return [name for name, factor in zip(DIMENSIONS, factors, strict=True) if factor != 1]

    @property
    def text(self) -> str:
        """The coefficients as `--coefficients` takes them."""
        return ",".join(f"{value:.12g}" for value in self.to_dict().values())

    def to_dict(self) -> dict[str, Any]:
        """Return the coefficients by name; `neck` only if it is given. The base has the sizes."""
        return {key: value for key, value in asdict(self).items() if key != "sizes" and value is not None}


@dataclass(frozen=True)
class DetectorRule:
    """EfficientDet's compound scaling (Tan et al. 2020, section 4.2, equations 1 to 3); the defaults are D0's sizes.

    At phi, the neck of D0 has 64 * 1.35^phi channels and 3 + phi cells, its head 3 + floor(phi / 3) layers, and its
    input 512 + 128 * phi pixels. The backbone is EfficientNet-B_phi. Between two of them, and beyond B0 and B7, its
    factors are linear in phi.

    Attributes:
        neck_channels: Channels of the base's neck.
        neck_cells: Cells of the base's neck.
        head_layers: Layers of the base's head.
        neck_growth: Factor of the neck's channels for one unit of phi.
        input_growth: The share of the base's input that one unit of phi adds.
    """

    neck_channels: int = 64
    neck_cells: int = 3
    head_layers: int = 3
    neck_growth: float = 1.35
    input_growth: float = 0.25

    def at(self, phi: float) -> Factors:
        """Return the factors at phi. Raises SpaceError above the upper limit of the channels."""
        first = min(max(math.floor(phi), 0), len(EFFICIENTNET) - 2)
        (width, depth, _), (next_width, next_depth, _) = EFFICIENTNET[first : first + 2]
        share = phi - first
        return Factors(
            depth + share * (next_depth - depth),
            width + share * (next_width - width),
            1 + self.input_growth * phi,
            grown_sizes(DetectorSizes(self.neck_channels, self.neck_cells, self.head_layers), self.neck_growth, phi),
        )

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that the rule scales: all."""
        return list(DIMENSIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def grown_sizes(base: DetectorSizes, growth: float, phi: float) -> DetectorSizes:
    """Return the sizes of neck and head at phi by EfficientDet's equations 1 and 2 (Tan et al. 2020, section 4.2).

    The neck has `growth^phi` times the channels and phi more cells, the head a layer more for every three units of phi.
    Channels are multiples of 8 up to phi 1, of 16 up to phi 2 and of 32 above, as released; of fewer if the base has
    fewer channels than D0.

    Args:
        base: The sizes at phi 0.
        growth: The factor of the channels for one unit of phi.
        phi: The phi.

    Raises:
        SpaceError: The channels are above their upper limit.
    """
    channels = base.neck_channels * _power(growth, phi)
    if channels > MAX_SIZES["width"]:
        raise SpaceError(f"{channels:.3g} channels of the neck are over {MAX_SIZES['width']:,}", key="width")
    released = 8 if phi <= 1 else 16 if phi <= 2 else 32
    step = max(8, min(released, released * base.neck_channels // 64 // 8 * 8)) if phi else 1
    return DetectorSizes(
        max(step, int(channels / step + 0.5) * step),
        math.floor(base.neck_cells + phi),
        base.head_layers + math.floor(phi / 3),
    )


NECK_BASES = (1.2, 1.25, 1.3, 1.35, 1.4, 1.45)
"""The factors of the neck's channels that Tan et al. (2020, section 4.2) tried; 1.35 was best for EfficientDet."""

ScalingRule = Coefficients | DetectorRule


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
        neck: Arguments of the neck's blocks that differ from the base.
        detector: The sizes of neck and head; None for a classifier.
        phi: The phi at which the rule of the preset is compared with this network; None if it is not.
    """

    name: str
    depth: float
    width: float
    resolution: int
    head: tuple[tuple[str, Scalar], ...] = ()
    neck: tuple[tuple[str, Scalar], ...] = ()
    detector: DetectorSizes | None = None
    phi: float | None = None

    def factors(self, reference: int) -> Factors:
        """Return the factors for a base of `reference` pixels."""
        return Factors(self.depth, self.width, self.resolution / reference, self.detector)


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
    coefficients: ScalingRule | None = None
    points: tuple[Point, ...] = ()
    reference: int = 224
    rounding: Rounding = field(default_factory=Rounding)
    budget: str = ""
    objective: str = ""


EXACT_PIXELS = Rounding(resolution_step=1)
MOBILENET = Rounding(resolution_step=1, head="never narrower")
FAST_SCALING = Rounding(repeats="round", resolution_step=4)


EFFICIENTNET = (
    (1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 300),
    (1.4, 1.8, 380), (1.6, 2.2, 456), (1.8, 2.6, 528), (2.0, 3.1, 600),
)  # fmt: skip
"""Factors of width and depth, and pixels, of EfficientNet-B0 to B7 as released."""


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


def _detector(
    name: str, backbone: int, resolution: int, sizes: tuple[int, int, int], phi: float | None = None, **neck: Scalar
) -> Point:
    """Return a point with the backbone EfficientNet-B<backbone>, and the channels, cells and head layers `sizes`."""
    width, depth, _ = EFFICIENTNET[backbone]
    return Point(name, depth, width, resolution, (), tuple(neck.items()), DetectorSizes(*sizes), phi)


def _multiplied(widths: tuple[float, ...], resolutions: tuple[int, ...]) -> tuple[Point, ...]:
    return tuple(Point(f"{width:g}-{size}", 1.0, width, size) for width, size in product(widths, resolutions))


PRESETS: dict[str, Preset] = {
    "efficientnet": Preset(
        "B0 to B7 as released (not powers of 1.2, 1.1, 1.15); with --phi, the paper's rule",
        "https://arxiv.org/abs/1905.11946, section 3.3; tensorflow/tpu efficientnet_builder.py",
        Coefficients(1.2, 1.1, 1.15),
        _numbered_points(
            "b", " ".join(f"{width},{depth},{size}" for width, depth, size in EFFICIENTNET), ".2 .2 .3 .3 .4 .4 .5 .5"
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
    "efficientdet": Preset(
        "D0 to D7x as released, from D0; with --phi, the paper's rule (D5 to D7x leave it)",
        "https://arxiv.org/abs/1911.09070, section 4.2, table 1; google/automl efficientdet hparams_config.py",
        DetectorRule(),
        (
            _detector("d0", 0, 512, (64, 3, 3), 0),
            _detector("d1", 1, 640, (88, 4, 3), 1),
            _detector("d2", 2, 768, (112, 5, 3), 2),
            _detector("d3", 3, 896, (160, 6, 4), 3),
            _detector("d4", 4, 1024, (224, 7, 4), 4),
            _detector("d5", 5, 1280, (288, 7, 4), 5),
            _detector("d6", 6, 1280, (384, 8, 5), 6, fusion="sum"),
            _detector("d7", 6, 1536, (384, 8, 5), 7, fusion="sum"),
            _detector("d7x", 7, 1536, (384, 8, 5), 7, levels=6, fusion="sum"),
        ),
        reference=512,
    ),
    "efficientdet_lite": Preset(
        "Lite0 to Lite4 as released, from Lite0: the stem and the repeats of the first and the last stage are fixed",
        "https://arxiv.org/abs/1911.09070; google/automl efficientdet hparams_config.py, lite models",
        points=(
            _detector("lite0", 0, 320, (64, 3, 3)),
            _detector("lite1", 1, 384, (88, 4, 3)),
            _detector("lite2", 2, 448, (112, 5, 3)),
            _detector("lite3", 3, 512, (160, 6, 4)),
            _detector("lite4", 4, 640, (224, 7, 4)),
        ),
        reference=320,
        rounding=Rounding(resolution_step=1, ends="fixed"),
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
