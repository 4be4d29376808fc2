"""Verification: checks a latency table against new networks that are measured now."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from statistics import median
from typing import Any

from nas.devices.client import LOCAL
from nas.errors import TableError
from nas.latency.calibration import TOLERANCE, Certificate, certify
from nas.latency.profiler import measure_networks
from nas.latency.table import LatencyTable
from nas.spaces.automaton import reachable
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space
from nas.utils.reporting import Reporter

VERIFICATION_NETWORKS = 10
"""Number of new networks to measure."""


@dataclass(frozen=True)
class Verification:
    """The accuracy of a table on new networks.

    Attributes:
        as_predicted: Accuracy of the predictions.
        factor: Median of measured / predicted latency.
        rescaled: Accuracy of the predictions multiplied by `factor`.
    """

    as_predicted: Certificate
    factor: float
    rescaled: Certificate

    @property
    def holds(self) -> bool:
        """Whether the predictions are accurate without a factor."""
        return self.as_predicted.mean_error <= TOLERANCE

    @property
    def verdict(self) -> str:
        """The finding as a sentence."""
        if self.holds:
            return "the table is accurate"
        if self.rescaled.mean_error <= TOLERANCE:
            return (
                f"the ranking still holds, but the device takes {self.factor:.2f} times as long as when it was "
                "profiled; profile again, with nothing else running"
            )
        return "the table is no longer accurate; profile again, with nothing else running"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "holds": self.holds,
            "verdict": self.verdict,
            "certificate": self.as_predicted.to_dict(),
            "factor": self.factor,
            "certificate_after_factor": self.rescaled.to_dict(),
        }


def verify(
    space: Space, table: LatencyTable, reporter: Reporter, count: int = VERIFICATION_NETWORKS, device: str = LOCAL
) -> Verification:
    """Measure `count` random networks of `space` that are not in the table, and compare them with its predictions.

    Args:
        space: The space to sample from.
        table: The table to verify.
        reporter: Shows the progress.
        count: Number of networks.
        device: The table's device, as a URL or "local".

    Raises:
        TableError: The table does not cover the space, or contains all networks of the space.
    """
    table.check_covers(reachable(space))
    seen = {network.arch.digest for network in table.networks}
    seed = datetime.datetime.now(datetime.UTC).isoformat()
    archs = [arch for arch in sample_networks(space, count + len(seen), seed) if arch.digest not in seen][:count]
    if len(archs) < 2:
        raise TableError(f"contains all networks of '{space.name}', so none is left to verify it", where=table.path)
    latencies = measure_networks(archs, table.header["runtime"], table.header["threads"], reporter, device)
    measured = [latency.median for latency in latencies]
    predicted = [table.predictor(space.key).predict(arch) for arch in archs]
    factor = median(actual / expected for actual, expected in zip(measured, predicted, strict=True))
    repeatability = sum(latency.repeatability for latency in latencies) / len(latencies)
    return Verification(
        certify(predicted, measured, repeatability),
        factor,
        certify([factor * ms for ms in predicted], measured, repeatability),
    )
