"""Head of SqueezeNet (Iandola et al. 2016, table 1)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import ClassifierConv2d, global_pool


class ConvClassifier(nn.Module):
    """Dropout, 1x1 convolution with bias to the classes, ReLU, global mean. Reads the last feature map."""

    def __init__(self, in_channels: tuple[int, ...], *, num_classes: int = 1000, dropout: float = 0.5):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: {num_classes}")
        self.dropout = nn.Dropout(dropout)
        self.conv = ClassifierConv2d(in_channels[-1], num_classes, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, num_classes)."""
        return global_pool(self.relu(self.conv(self.dropout(maps[-1]))))
