"""Detectors: their post-processing, and their export with it."""
