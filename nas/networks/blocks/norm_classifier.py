"""Head of pre-activation networks (DenseNet, Huang et al. 2017; CondenseNet, Huang et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.networks.blocks.layers import global_pool


class NormClassifier(nn.Module):
    """BN, ReLU, global mean [, feature selection], dropout, linear. Reads the last feature map.

    A `keep` below 1 gives CondenseNet's condensed classifier: the linear layer reads this fraction of the features,
    selected by `index`.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        num_classes: int = 1000,
        dropout: float = 0.0,
        bias: bool = True,
        keep: float = 1.0,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: {num_classes}")
        kept = int(in_channels[-1] * keep)
        if keep > 1 or kept < 1:
            raise ValueError(f"keep must leave from 1 to all of {in_channels[-1]} features: {keep}")
        self.norm = nn.BatchNorm2d(in_channels[-1])
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(kept, num_classes, bias=bias)
        spread = torch.arange(kept) * in_channels[-1] // kept
        self.index: Tensor | None
        self.register_buffer("index", None if kept == in_channels[-1] else spread)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, num_classes)."""
        features = global_pool(self.relu(self.norm(maps[-1])))
        if self.index is not None:
            features = features.index_select(1, self.index)
        y: Tensor = self.linear(self.dropout(features))
        return y
