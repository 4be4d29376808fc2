"""The block families. A block is one nn.Module; its signature is its schema in the YAML files.

`__init__(self, in_channels, *, ...)` takes at most 8 scalar keywords. Heads and necks take
`in_channels: tuple[int, ...]` and a list of feature maps. To add one: write a file, add a line here.
"""

from __future__ import annotations

from torch import nn

from nas.blocks.classifier import Classifier
from nas.blocks.condense import Condense
from nas.blocks.condensed import Condensed
from nas.blocks.conv import Conv
from nas.blocks.conv_classifier import ConvClassifier
from nas.blocks.dense import DenseLayer
from nas.blocks.fbnet_block import FBNetBlock
from nas.blocks.features import Features
from nas.blocks.fire import Fire
from nas.blocks.fused_mbconv import FusedMBConv
from nas.blocks.mbconv import MBConv
from nas.blocks.norm_classifier import NormClassifier
from nas.blocks.osa import OSA
from nas.blocks.pelee_stem import PeleeStem
from nas.blocks.plain_conv import PlainConv
from nas.blocks.pool import Pool
from nas.blocks.separable import Separable
from nas.blocks.shufflenet_v1 import ShuffleNetV1Unit
from nas.blocks.shufflenet_v2 import ShuffleNetV2Unit
from nas.blocks.squeezenext import SqueezeNext
from nas.blocks.transition import Transition
from nas.blocks.two_way_dense import TwoWayDense

BLOCKS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "separable": Separable,
    "mbconv": MBConv,
    "fused_mbconv": FusedMBConv,
    "fbnet_block": FBNetBlock,
    "shufflenet_v1": ShuffleNetV1Unit,
    "shufflenet_v2": ShuffleNetV2Unit,
    "osa": OSA,
    "pool": Pool,
    "plain_conv": PlainConv,
    "fire": Fire,
    "squeezenext": SqueezeNext,
    "dense": DenseLayer,
    "transition": Transition,
    "two_way_dense": TwoWayDense,
    "pelee_stem": PeleeStem,
    "condense": Condense,
    "condensed": Condensed,
    "classifier": Classifier,
    "conv_classifier": ConvClassifier,
    "norm_classifier": NormClassifier,
    "features": Features,
}
