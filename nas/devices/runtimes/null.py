"""Null runtime: runs nothing and simulates time and memory, so that the layers above it can be tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices.runtimes.support import Inference

if TYPE_CHECKING:
    from torch import Tensor, nn

FLOPS_PER_NS = 10
OVERHEAD_NS = 5_000
FLOPS_PER_BYTE = 100
OVERHEAD_BYTES = 1 << 20


class NullRuntime:
    """An inference takes 5 us plus 0.1 ns per floating-point operation, on a simulated clock.

    Its peak memory is 1 MiB plus one byte per 100 floating-point operations.
    """

    suffix = ".json"
    selects_boxes = True

    def __init__(self, precision: str = "float32") -> None:
        self.precision = precision
        self._now_ns = 0

    def version(self) -> str:
        """Return the version of the simulated times."""
        return "1"

    def clock(self) -> int:
        """Return the simulated time in ns."""
        return self._now_ns

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that does nothing: simulated time does not depend on caches."""
        return lambda: None

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write the number of floating-point operations of one inference."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*(each[:1] for each in inputs))
        path.write_text(json.dumps({"flops": counter.get_total_flops()}), encoding="utf-8")

    def peak_memory(self, path: str) -> int:
        """Return the model's simulated peak memory in bytes."""
        return OVERHEAD_BYTES + _flops(path) // FLOPS_PER_BYTE

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Inference:
        """Return a function that advances the clock by the model's simulated time."""
        flops = _flops(path)

        def run(others: Sequence[Any] = ()) -> Sequence[Any]:
            self._now_ns += OVERHEAD_NS + flops // FLOPS_PER_NS
            return []

        return run


def _flops(path: str) -> int:
    return int(json.loads(Path(path).read_text(encoding="utf-8"))["flops"])
