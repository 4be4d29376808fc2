"""The four guidelines of ShuffleNetV2 (Ma et al. 2018, section 2), evaluated for the layers of a network.

A network that breaks a guideline may be slower than its MACs suggest; a latency table gives the actual cost. The
paper gives no limits, so the thresholds are rules of thumb of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from nas.networks.network import Layer


@dataclass(frozen=True)
class Guideline:
    """The result of one guideline for one network.

    Attributes:
        name: The guideline's name.
        about: Description of the value.
        value: The measured quantity. Lower is better.
        threshold: Largest value that follows the guideline.
    """

    name: str
    about: str
    value: float
    threshold: float

    @property
    def verdict(self) -> Literal["follows", "breaks"]:
        """Whether the value is within the threshold, up to rounding."""
        return "follows" if self.value <= self.threshold * (1 + 1e-9) else "breaks"


def guidelines(layers: Sequence[Layer]) -> tuple[Guideline, ...]:
    """Return G1 to G4 for the layers of a network, as returned by `trace`."""
    return channel_ratio(layers), groups(layers), fragmentation(layers), element_wise_share(layers)


def channel_ratio(layers: Sequence[Layer]) -> Guideline:
    """G1: equal input and output channels minimize the memory access of a 1x1 convolution.

    The value is the mean of (c1 + c2) / (2 sqrt(c1 c2)) over the 1x1 convolutions, weighted by MACs: the map
    elements that a convolution moves, relative to the minimum at its MACs (equation 2 of the paper). The
    threshold of 1.061 corresponds to channels of 1:2.
    """
    pointwise = [conv for layer in layers for conv in layer.convolutions if conv.is_pointwise]
    ratios = [_imbalance(conv.in_channels, conv.out_channels) for conv in pointwise]
    value = _mean(ratios, [conv.macs for conv in pointwise], empty=1.0)
    about = "map elements moved by 1x1 convolutions, relative to the minimum"
    return Guideline("G1 channel ratio", about, value, _imbalance(1, 2))


def groups(layers: Sequence[Layer]) -> Guideline:
    """G2: group convolutions increase the memory access at equal MACs.

    The value is the share of all MACs in convolutions with 2 or more groups, without depthwise ones. `about` gives
    their mean number of groups, weighted by MACs. The threshold is 5 %. The paper recommends choosing the
    number of groups by measurement.
    """
    grouped = [conv for layer in layers for conv in layer.convolutions if conv.groups > 1 and not conv.is_depthwise]
    macs = sum(layer.macs for layer in layers)
    mean = _mean([conv.groups for conv in grouped], [conv.macs for conv in grouped], empty=1.0)
    share = sum(conv.macs for conv in grouped) / macs if macs else 0.0
    return Guideline("G2 groups", f"share of MACs in group convolutions (mean groups: {mean:.3g})", share, 0.05)


def fragmentation(layers: Sequence[Layer]) -> Guideline:
    """G3: many small operators in a block reduce parallelism.

    The value is the mean number of convolutions per block, over the blocks with at least one and without the
    head. The threshold of 3 is the number in ResNet's bottleneck.
    """
    counts = [len(layer.convolutions) for layer in layers[:-1] if layer.convolutions]
    value = sum(counts) / len(counts) if counts else 0.0
    return Guideline("G3 fragmentation", "convolutions per block", value, 3.0)


def element_wise_share(layers: Sequence[Layer]) -> Guideline:
    """G4: element-wise operators take time that MACs do not show.

    The value is the share of the memory access in operators without weights: additions, gates, pooling,
    concatenation and shuffles. Activations are fused and count as free. Depthwise convolutions, which the paper
    counts as element-wise, are left out because they have MACs. At the threshold of 1/6, a network bound by
    memory would be 20 % faster without these operators.
    """
    access = sum(layer.memory_access for layer in layers)
    share = sum(layer.element_wise_access for layer in layers) / access if access else 0.0
    return Guideline("G4 element-wise", "share of memory access without weights", share, 1 / 6)


def _imbalance(first: int, second: int) -> float:
    """Return the ratio of the arithmetic mean to the geometric mean. It is 1 for equal numbers."""
    return (first + second) / (2 * sqrt(first * second))


def _mean(values: Sequence[float], weights: Sequence[int], empty: float) -> float:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else empty
