"""How images are normalized before a network reads them: the input contract of every network here."""

from __future__ import annotations

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB channels, for values in [0, 1]."""
