"""Blocks: one nn.Module per block family. A block's signature is its schema in the YAML files.

`__init__(self, in_channels, *, ...)` takes at most 9 scalar keywords. Heads and necks take
`in_channels: tuple[int, ...]` and a list of feature maps. A class can declare further traits, see
`nas.networks.block_schema.BlockTraits`. To add a block, write a file and add a line here.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nas.errors import SpaceError
from nas.networks.blocks.bifpn import BiFPN
from nas.networks.blocks.classifier import Classifier
from nas.networks.blocks.condense import Condense
from nas.networks.blocks.condensed import Condensed
from nas.networks.blocks.conv import Conv
from nas.networks.blocks.conv_classifier import ConvClassifier
from nas.networks.blocks.dense import DenseLayer
from nas.networks.blocks.dsod_neck import DSODNeck
from nas.networks.blocks.efficientdet_head import EfficientDetHead
from nas.networks.blocks.fbnet_block import FBNetBlock
from nas.networks.blocks.features import Features
from nas.networks.blocks.fire import Fire
from nas.networks.blocks.fpn import FPN
from nas.networks.blocks.fused_mbconv import FusedMBConv
from nas.networks.blocks.gfl_head import GFLHead
from nas.networks.blocks.light_pan import LightPAN
from nas.networks.blocks.linear_attention import LinearAttention
from nas.networks.blocks.mbconv import MBConv
from nas.networks.blocks.multi_query_attention import MultiQueryAttention
from nas.networks.blocks.norm_classifier import NormClassifier
from nas.networks.blocks.osa import OSA
from nas.networks.blocks.panet import PANet
from nas.networks.blocks.pelee_stem import PeleeStem
from nas.networks.blocks.plain_conv import PlainConv
from nas.networks.blocks.pool import Pool
from nas.networks.blocks.residual import Residual
from nas.networks.blocks.residual_prediction import ResidualPrediction
from nas.networks.blocks.separable import Separable
from nas.networks.blocks.shufflenet_v1 import ShuffleNetV1Unit
from nas.networks.blocks.shufflenet_v2 import ShuffleNetV2Unit
from nas.networks.blocks.squeezenext import SqueezeNext
from nas.networks.blocks.ssd_head import SSDHead
from nas.networks.blocks.transition import Transition
from nas.networks.blocks.two_way_dense import TwoWayDense
from nas.networks.blocks.uib import UIB
from nas.utils.imports import find_file, import_callable
from nas.utils.registry import lookup

BLOCKS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "separable": Separable,
    "mbconv": MBConv,
    "fused_mbconv": FusedMBConv,
    "fbnet_block": FBNetBlock,
    "shufflenet_v1": ShuffleNetV1Unit,
    "shufflenet_v2": ShuffleNetV2Unit,
    "uib": UIB,
    "residual": Residual,
    "osa": OSA,
    "linear_attention": LinearAttention,
    "multi_query_attention": MultiQueryAttention,
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
    "residual_prediction": ResidualPrediction,
    "bifpn": BiFPN,
    "fpn": FPN,
    "panet": PANet,
    "dsod_neck": DSODNeck,
    "light_pan": LightPAN,
    "efficientdet_head": EfficientDetHead,
    "ssd_head": SSDHead,
    "gfl_head": GFLHead,
}


def find_block(op: str, where: str = "") -> type[nn.Module]:
    """Return the class of the block `op`.

    Args:
        op: A key of BLOCKS, an entry point of the group `nas.blocks`, or `package.module:Class`, where the module is
            installed or in the current directory.
        where: The place of the name in the user's input.

    Raises:
        SpaceError: The name is unknown, its module cannot be imported, or it is not a class of torch modules.
    """
    if op in BLOCKS:
        return BLOCKS[op]

    def fail(rule: str, value: str, close: str) -> SpaceError:
        return SpaceError(rule, where=where, key="block", value=value, nearest=close)

    if ":" in op:
        block: object = import_callable(op, fail, "package.module:Class")
    else:
        block = lookup(BLOCKS, op, "block", where, SpaceError)
    if not isinstance(block, type) or not issubclass(block, nn.Module):
        raise fail("must be a class derived from torch.nn.Module", op, "")
    return block


def is_ours(op: str) -> bool:
    """Return whether a block is part of this package."""
    return op in BLOCKS and BLOCKS[op].__module__.startswith(f"{__name__}.")


def module_file(op: str) -> Path | None:
    """Return the file or folder of the top-level module of a block `module:Class`, without importing it."""
    return find_file(op.partition(":")[0].partition(".")[0]) if ":" in op else None
