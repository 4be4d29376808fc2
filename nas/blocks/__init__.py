"""The block families. A block is one nn.Module; its signature is its schema in the YAML files.

`__init__(self, in_channels, *, ...)` takes at most 8 scalar keywords. Heads and necks take
`in_channels: tuple[int, ...]` and a list of feature maps. To add one: write a file, add a line here.
"""

from __future__ import annotations

from torch import nn

from nas.blocks.classifier import Classifier
from nas.blocks.conv import Conv
from nas.blocks.fused_mbconv import FusedMBConv
from nas.blocks.mbconv import MBConv
from nas.blocks.osa import OSA
from nas.blocks.pool import Pool
from nas.blocks.separable import Separable
from nas.blocks.shufflenet_v1 import ShuffleNetV1Unit
from nas.blocks.shufflenet_v2 import ShuffleNetV2Unit

BLOCKS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "separable": Separable,
    "mbconv": MBConv,
    "fused_mbconv": FusedMBConv,
    "shufflenet_v1": ShuffleNetV1Unit,
    "shufflenet_v2": ShuffleNetV2Unit,
    "osa": OSA,
    "pool": Pool,
    "classifier": Classifier,
}
