"""Rank checks: how well evaluators rank networks, compared with reference trainings."""
