"""Head for image classification."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, activation_layer, conv_bn_act, global_pool


class Classifier(nn.Module):
    """[1x1 convolution, BN, activation,] global mean [, linear, activation], dropout, linear.

    Reads the last feature map. `pooled_channels` adds the linear layer after the mean, as in MobileNetV3's
    efficient last stage (Howard et al. 2019, section 5.1). That layer has a bias and no batch norm; with a
    `pooled_norm` it has that norm and no bias: a batch norm in MobileNetV4 (Qin et al. 2024, table 10), a layer norm in
    EfficientViT (Cai et al. 2023).
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        num_classes: int = 1000,
        hidden_channels: int = 0,
        pooled_channels: int = 0,
        pooled_norm: Literal["none", "batch", "layer"] = "none",
        activation: Activation = "relu",
        dropout: float = 0.2,
        bias: bool = True,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: {num_classes}")
        channels = in_channels[-1]
        self.conv: nn.Module = nn.Identity()
        if hidden_channels:
            self.conv = conv_bn_act(channels, hidden_channels, activation=activation)
            channels = hidden_channels
        self.pooled: nn.Module = nn.Identity()
        if pooled_channels:
            layers: list[nn.Module] = [nn.Linear(channels, pooled_channels, bias=pooled_norm == "none")]
            if pooled_norm != "none":
                norm = nn.BatchNorm1d if pooled_norm == "batch" else nn.LayerNorm
                layers.append(norm(pooled_channels))
            self.pooled = nn.Sequential(*layers, activation_layer(activation))
            channels = pooled_channels
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, num_classes, bias=bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, num_classes)."""
        y: Tensor = self.linear(self.dropout(self.pooled(global_pool(self.conv(maps[-1])))))
        return y
