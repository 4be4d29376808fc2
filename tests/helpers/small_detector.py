"""A small space of detectors: taps, a choice for each layer, a depth of 0, necks of both kinds, heads of both kinds."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "resolution": [32, 48],
    "stages": [
        {"block": "conv", "out_channels": 4, "stride": 2},
        {"block": "mbconv", "depth": [1, 2], "out_channels": [4, 8], "stride": 2, "kernel_size": [3, 5],
         "per_layer": ["kernel_size"], "tap": True},
        {"block": "separable", "depth": [0, 1], "out_channels": [8, 12], "skip": ["none", "identity"]},
        {"block": "conv", "out_channels": [8, 16], "stride": 2, "tap": True},
    ],
    "neck": [
        {"block": "conv", "kernel_size": 1, "out_channels": [8], "skip": ["none", "identity"]},
        {"block": "bifpn", "depth": [0, 1, 2], "levels": 3, "fusion": ["fast", "sum"]},
    ],
    "head": {"block": [{"op": "efficientdet_head", "num_layers": [0, 1]}, "ssd_head"], "num_classes": 3},
}  # fmt: skip
