"""Latency tables: measurement, calibration on whole networks, verification, import of published tables."""
