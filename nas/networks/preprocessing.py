"""Normalization of images. Every network of this project expects inputs that are normalized in this way."""

from __future__ import annotations

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB channels, for values in [0, 1]."""
