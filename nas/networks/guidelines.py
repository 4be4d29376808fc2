"""The four guidelines of ShuffleNetV2 (Ma et al. 2018, section 2) over the layers of a network.

They tell where a network may be slower than its MACs promise; how much, only a latency table tells. The paper gives
directions, not limits: the thresholds are rules of thumb of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from nas.networks.network import Layer


@dataclass(frozen=True)
class Guideline:
    """A guideline's `value` in a network, the `threshold` up to which it is followed, and the verdict.

    `about` says in words what the value is.
    """

    name: str
    about: str
    value: float
    threshold: float

    @property
    def verdict(self) -> Literal["follows", "breaks"]:
        """Whether the value is at most the threshold, up to rounding."""
        return "follows" if self.value <= self.threshold * (1 + 1e-9) else "breaks"


def guidelines(layers: Sequence[Layer]) -> tuple[Guideline, ...]:
    """Return G1 to G4 of the layers of a network, as `trace` gives them."""
    return channel_ratio(layers), groups(layers), fragmentation(layers), element_wise_share(layers)


def channel_ratio(layers: Sequence[Layer]) -> Guideline:
    """G1: equal channels minimise the memory access of a 1x1 convolution.

    The value is the mean over the 1x1 convolutions, weighted by MACs, of (c1 + c2) / (2 sqrt(c1 c2)): the
    feature maps that one moves, over the fewest that its MACs allow (equation 2 of the paper). The threshold
    of 1.061, which channels of 1:2 have, is ours.
    """
    pointwise = [conv for layer in layers for conv in layer.convolutions if conv.is_pointwise]
    value = _mean([_imbalance(conv.in_channels, conv.out_channels) for conv in pointwise],
                  [conv.macs for conv in pointwise], empty=1.0)  # fmt: skip
    return Guideline("G1 channel ratio", "map elements of 1x1 convolutions over the fewest", value, _imbalance(1, 2))


def groups(layers: Sequence[Layer]) -> Guideline:
    """G2: group convolutions raise the memory access at equal MACs.

    The value is the share of all MACs in convolutions of 2 or more groups that are not depthwise; the mean of
    those groups, weighted by MACs, stands in `about`. The threshold of a twentieth is ours: the paper gives none,
    and calls for groups to be chosen by measuring.
    """
    grouped = [
        conv for layer in layers for conv in layer.convolutions if conv.groups > 1 and not conv.is_depthwise
    ]  # fmt: skip
    macs = sum(layer.macs for layer in layers)
    mean = _mean([conv.groups for conv in grouped], [conv.macs for conv in grouped], empty=1.0)
    share = sum(conv.macs for conv in grouped) / macs if macs else 0.0
    return Guideline("G2 groups", f"share of MACs in group convolutions, of {mean:.3g} groups", share, 0.05)


def fragmentation(layers: Sequence[Layer]) -> Guideline:
    """G3: many small operators in a block keep a parallel device waiting.

    The value is the mean number of convolutions of the blocks that have one, the head left out. The threshold
    of 3, as many as ResNet's bottleneck has, is ours.
    """
    counts = [len(layer.convolutions) for layer in layers[:-1] if layer.convolutions]
    value = sum(counts) / len(counts) if counts else 0.0
    return Guideline("G3 fragmentation", "convolutions per block", value, 3.0)


def element_wise_share(layers: Sequence[Layer]) -> Guideline:
    """G4: element-wise operators take time that MACs do not show.

    The value is the share of the memory access in operators without weights: additions, gates, pooling,
    concatenation, shuffles. Activations are fused and free here, and depthwise convolutions, which the paper
    counts as element-wise, are left out: they have MACs. The threshold of a sixth is ours: a network that is bound
    by memory would be a fifth faster without so much.
    """
    access = sum(layer.memory_access for layer in layers)
    share = sum(layer.element_wise_access for layer in layers) / access if access else 0.0
    return Guideline("G4 element-wise", "share of memory access without weights", share, 1 / 6)


def _imbalance(first: int, second: int) -> float:
    """Return the arithmetic over the geometric mean, 1 where both are equal."""
    return (first + second) / (2 * sqrt(first * second))


def _mean(values: Sequence[float], weights: Sequence[int], empty: float) -> float:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else empty
