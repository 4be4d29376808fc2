"""Whether a latency table still holds: fresh networks measured now, beside what the table says of them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from nas.devices.client import LOCAL
from nas.devices.timing import quantile
from nas.errors import TableError
from nas.latency.calibration import TOLERANCE, Certificate, certify
from nas.latency.profiler import measure_networks
from nas.latency.table import LatencyTable
from nas.spaces.automaton import reachable
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space
from nas.utils.reporting import Reporter

FRESH = 10


@dataclass(frozen=True)
class Verification:
    """What fresh networks say: `found` as predicted, `scaled` after the one factor measured / predicted."""

    found: Certificate
    factor: float
    scaled: Certificate

    @property
    def holds(self) -> bool:
        """Whether predictions are good as they stand."""
        return self.found.mean_error <= TOLERANCE

    @property
    def verdict(self) -> str:
        """The finding in words."""
        if self.holds:
            return "the table holds"
        if self.scaled.mean_error <= TOLERANCE:
            return (
                f"the table ranks but its times do not hold: this device takes {self.factor:.2f} times what it took; "
                "profile anew, with nothing else running"
            )
        return "the table does not hold: profile anew, with nothing else running"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "holds": self.holds,
            "verdict": self.verdict,
            "certificate": self.found.to_dict(),
            "factor": self.factor,
            "certificate_after_factor": self.scaled.to_dict(),
        }


def verify(
    space: Space, table: LatencyTable, reporter: Reporter, count: int = FRESH, device: str = LOCAL
) -> Verification:
    """Measure `count` random networks of `space` that the table has not seen, now, on its device.

    Raises TableError where the table does not cover the space, or where the space has nothing unseen.
    """
    table.check_covers(reachable(space))
    seen = {network.arch.digest for network in table.networks}
    seed = datetime.datetime.now(datetime.UTC).isoformat()
    archs = [arch for arch in sample_networks(space, count + len(seen), seed) if arch.digest not in seen][:count]
    if len(archs) < 2:
        raise TableError(f"{table.path}: '{space.name}' has no networks that the table has not seen")
    latencies = measure_networks(archs, table.header["runtime"], table.header["threads"], reporter, device)
    measured = [latency.median for latency in latencies]
    predicted = [table.predictor(space.key).predict(arch) for arch in archs]
    ratios = sorted(there / said for there, said in zip(measured, predicted, strict=True))
    factor = quantile(ratios, 0.5)
    repeatability = sum(latency.repeatability for latency in latencies) / len(latencies)
    return Verification(
        certify(predicted, measured, repeatability),
        factor,
        certify([factor * ms for ms in predicted], measured, repeatability),
    )
