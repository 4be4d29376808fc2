"""Multi-query attention of MobileNetV4 (Qin et al. 2024, section 5)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Args, ChannelScale, DropConnect, Skip, canonical_skip, conv_bn_act, skip_layer


class MultiQueryAttention(nn.Module):
    """BN, attention with one key and one value for all heads, 1x1 project [, scale] [+ skip].

    Each position reads all others, so the cost grows with the square of their number. `reduction` above 1 is the
    stride of a depthwise convolution and a batch norm before keys and values, which makes fewer of them. `layer_scale`
    multiplies each channel of the output by a weight that begins at 1e-5. A skip needs as many outputs as inputs.

    Raises ValueError unless `heads`, `head_channels` and `reduction` are at least 1.
    """

    MOST_POSITIONS = 400
    """The largest map: 20 x 20. MobileNetV4 uses attention at 16 x 16 and below."""

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible, and `kernel_size` where there is no depthwise convolution."""
        changes = canonical_skip(in_channels, {**args, "stride": 1}, "identity")
        return changes if args["reduction"] > 1 else {**changes, "kernel_size": 3}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        heads: int = 4,
        head_channels: int = 64,
        reduction: int = 1,
        kernel_size: int = 3,
        layer_scale: bool = False,
        skip: Skip = "identity",
    ):
        super().__init__()
        for name, value in (("heads", heads), ("head_channels", head_channels), ("reduction", reduction)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")
        self.heads, self.head_channels = heads, head_channels
        self.norm = nn.BatchNorm2d(in_channels)
        self.query = nn.Conv2d(in_channels, heads * head_channels, 1, bias=False)
        self.key = _reduced(in_channels, head_channels, reduction, kernel_size)
        self.value = _reduced(in_channels, head_channels, reduction, kernel_size)
        self.project = nn.Conv2d(heads * head_channels, out_channels, 1, bias=False)
        self.scale = ChannelScale(out_channels) if layer_scale else nn.Identity()
        self.skip = skip_layer(skip, in_channels, out_channels, 1)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        batch, _, height, width = x.shape
        normed = self.norm(x)
        q = self.query(normed).reshape(batch, self.heads, self.head_channels, -1).transpose(-1, -2)
        k, v = self.key(normed).flatten(2), self.value(normed).flatten(2)
        weights = (q.reshape(batch, -1, self.head_channels) @ k * self.head_channels**-0.5).softmax(-1)
        read = (weights @ v.transpose(-1, -2)).reshape(batch, self.heads, height * width, self.head_channels)
        y: Tensor = self.scale(self.project(read.transpose(-1, -2).reshape(batch, -1, height, width)))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)


def _reduced(channels: int, head_channels: int, reduction: int, kernel_size: int) -> nn.Module:
    """Return [depthwise with a stride, BN,] 1x1."""
    project = nn.Conv2d(channels, head_channels, 1, bias=False)
    if reduction == 1:
        return nn.Sequential(project)
    return nn.Sequential(conv_bn_act(channels, channels, kernel_size, reduction, channels, "none"), project)
