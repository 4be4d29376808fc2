"""Universal inverted bottleneck of MobileNetV4 (Qin et al. 2024, section 4)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    Args,
    ChannelScale,
    DropConnect,
    Skip,
    canonical_skip,
    conv_bn_act,
    expanded,
    make_divisible,
    skip_layer,
)


class UIB(nn.Module):
    """[depthwise, BN,] 1x1 expand, BN, activation [, depthwise, BN, activation], 1x1 project, BN [, scale] [+ skip].

    The two kernel sizes say which of the four forms of the paper it is; 0 leaves a depthwise convolution out:

    | `start_kernel_size` | `kernel_size` | form |
    |---|---|---|
    | 0 | 3, 5, ... | inverted bottleneck (MobileNetV2) |
    | 3, 5, ... | 0 | ConvNeXt-like |
    | 3, 5, ... | 3, 5, ... | extra depthwise |
    | 0 | 0 | feed-forward network |

    The stride is that of the second depthwise convolution, or of the first if there is no second. The expansion has
    `in_channels * expand_ratio` channels, rounded to a multiple of 8. `layer_scale` multiplies each channel of the
    output by a weight that begins at 1e-5 (Touvron et al. 2021, section 2).

    Raises ValueError for an expand_ratio below 1, and for a stride without a depthwise convolution.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible."""
        return canonical_skip(in_channels, args, "identity")

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        start_kernel_size: int = 0,
        kernel_size: int = 3,
        expand_ratio: float = 4.0,
        activation: Activation = "relu",
        layer_scale: bool = False,
        skip: Skip = "identity",
    ):
        super().__init__()
        if stride > 1 and not (start_kernel_size or kernel_size):
            raise ValueError(f"a stride of {stride} needs a depthwise convolution: kernel_size or start_kernel_size")
        hidden = make_divisible(expanded(in_channels, expand_ratio))
        self.start: nn.Module = nn.Identity()
        if start_kernel_size:
            first_stride = 1 if kernel_size else stride
            self.start = conv_bn_act(in_channels, in_channels, start_kernel_size, first_stride, in_channels, "none")
        self.expand = conv_bn_act(in_channels, hidden, activation=activation)
        self.depthwise: nn.Module = nn.Identity()
        if kernel_size:
            self.depthwise = conv_bn_act(hidden, hidden, kernel_size, stride, hidden, activation)
        self.project = conv_bn_act(hidden, out_channels, activation="none")
        self.scale = ChannelScale(out_channels) if layer_scale else nn.Identity()
        self.skip = skip_layer(skip, in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.scale(self.project(self.depthwise(self.expand(self.start(x)))))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
