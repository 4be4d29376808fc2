"""Latency tables: measured, calibrated on whole networks, certified, verified and imported."""
