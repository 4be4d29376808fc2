"""Mobile inverted bottleneck of MobileNetV2 (Sandler et al. 2018, section 3.3).

It supports the squeeze-and-excitation of MnasNet (Tan et al. 2019, figure 7), MobileNetV3 (Howard et al. 2019,
section 5) and EfficientNet (Tan and Le 2019, section 4), and the grouped expansion and 2 x 2 kernels of CPUBone
(Nottebaum et al. 2026).
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    Args,
    DropConnect,
    Skip,
    SqueezeFrom,
    canonical_skip_and_squeeze,
    conv_bn_act,
    expanded,
    skip_layer,
    squeeze_excite,
)


class MBConv(nn.Module):
    """[1x1 expand, BN, activation,] depthwise, BN, activation [, SE], 1x1 project, BN [+ skip].

    The expansion has round(in_channels * expand_ratio) channels, and is left out if that equals in_channels. It has
    `groups` groups. For the two kinds of squeeze-and-excitation, see `squeeze_excite`.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible, `se_from` without SE, and `groups` without an expansion."""
        changes = canonical_skip_and_squeeze(in_channels, args, "identity")
        return changes if round(in_channels * args["expand_ratio"]) != in_channels else {**changes, "groups": 1}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        expand_ratio: float = 6.0,
        groups: int = 1,
        se_ratio: float = 0.0,
        se_from: SqueezeFrom = "input",
        activation: Activation = "relu",
        skip: Skip = "identity",
    ):
        super().__init__()
        hidden = round(expanded(in_channels, expand_ratio))
        self.expand: nn.Module = nn.Identity()
        if hidden != in_channels:
            self.expand = conv_bn_act(in_channels, hidden, groups=groups, activation=activation)
        self.depthwise = conv_bn_act(hidden, hidden, kernel_size, stride, hidden, activation)
        self.se = squeeze_excite(hidden, in_channels, se_ratio, activation, se_from)
        self.project = conv_bn_act(hidden, out_channels, activation="none")
        self.skip = skip_layer(skip, in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
