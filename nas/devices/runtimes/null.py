"""A runtime that runs nothing: its time is counted, not measured, so that every part above it can be tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

FLOPS_PER_NS = 10
OVERHEAD_NS = 5_000


class NullRuntime:
    """An inference takes 5 us and 0.1 ns for each floating-point operation, on a clock of its own."""

    suffix = ".json"

    def __init__(self) -> None:
        self._now_ns = 0

    def version(self) -> str:
        """Return the version of the counted times."""
        return "1"

    def clock(self) -> int:
        """Return the counted time in ns."""
        return self._now_ns

    def export(self, model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
        """Write the number of floating-point operations and the outputs of one inference."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
        path.write_text(json.dumps({"flops": counter.get_total_flops()}), encoding="utf-8")

    def load(self, path: str, inputs: Sequence[Any], threads: int) -> Callable[[], Sequence[Any]]:
        """Return a call that advances the clock by the model's counted time."""
        flops = json.loads(Path(path).read_text(encoding="utf-8"))["flops"]

        def run() -> Sequence[Any]:
            self._now_ns += OVERHEAD_NS + flops // FLOPS_PER_NS
            return []

        return run
