"""Energy (RAPL, NVML) and peak memory of an inference, on devices that provide them. Standard library only.

A value that the device does not provide is absent, never zero.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Meter = Callable[[], float]
"""Returns the joules since some time in the past."""

POWERCAP = Path("/sys/class/powercap")
MEMORY_TIMEOUT_S = 60.0


def energy_meter(cuda: bool = False, powercap: Path = POWERCAP) -> Meter | None:
    """Return the energy meter of the processor packages (RAPL of Intel and AMD) or of the GPU; None if there is none.

    The meter includes the energy of other processes that run at the same time.
    """
    return _nvml_meter() if cuda else _rapl_meter(powercap)


def _rapl_meter(powercap: Path) -> Meter | None:
    zones: dict[str, _Counter] = {}
    # A package that is also readable through memory appears twice: "intel-rapl-mmio:0" after "intel-rapl:0".
    for name in sorted(powercap.glob("*/name"), key=lambda path: ("mmio" in path.parent.name, path)):
        try:
            package = name.read_text().strip()
            if package.startswith("package") and package not in zones:
                largest = int((name.parent / "max_energy_range_uj").read_text())
                zones[package] = _Counter(name.parent / "energy_uj", largest)
        except (OSError, ValueError):  # only root may read the counters on most systems
            continue
    return (lambda: sum(zone.joules() for zone in zones.values())) if zones else None


class _Counter:
    """A counter of microjoules that wraps to zero after `largest`. Raises OSError if it may not be read."""

    def __init__(self, path: Path, largest: int):
        self._path, self._largest = path, largest
        self._last, self._total = int(path.read_text()), 0

    def joules(self) -> float:
        """Return the joules since the counter was opened."""
        now = int(self._path.read_text())
        self._total += now - self._last if now >= self._last else now + self._largest - self._last
        self._last = now
        return self._total / 1e6


def _nvml_meter() -> Meter | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no library, no driver, or a GPU without the counter
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def peak_memory(
    runtime: str, path: str, shapes: Sequence[Sequence[int]], threads: int, beat: Callable[[], None] = lambda: None
) -> int | None:
    """Return the bytes by which a fresh process grows at most while it loads the model and runs it twice.

    Args:
        runtime: Name of the runtime.
        path: The exported model.
        shapes: The shapes of its inputs, with batch.
        threads: Number of runtime threads.
        beat: Called each second of the wait.

    Returns:
        The bytes, or None if the process fails or the system does not report them (they are Linux's VmHWM).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Without the allocator settings of a latency worker: they keep memory that a deployed process would release.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "nas.devices.energy_and_memory", json.dumps([runtime, path, shapes, threads])]
    try:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        ) as process:
            for _ in range(int(MEMORY_TIMEOUT_S)):
                try:
                    return int(process.communicate(timeout=1.0)[0].split()[-1])
                except subprocess.TimeoutExpired:
                    beat()
            process.kill()
    except (OSError, ValueError, IndexError):  # a process that fails prints nothing
        pass
    return None


def main() -> None:
    """Print the peak memory of one model in bytes: the child process of `peak_memory`."""
    from nas.devices.example_inputs import example_inputs
    from nas.devices.runtimes import RUNTIMES
    from nas.utils.registry import lookup

    name, path, shapes, threads = json.loads(sys.argv[1])
    runtime: Any = lookup(RUNTIMES, name, "runtime")()
    runtime.version()  # imports the library
    inputs = example_inputs(shapes)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    run = runtime.load(path, inputs, threads)
    run()
    run()
    print(_status("VmHWM") - before)


def _status(key: str) -> int:
    """Return a value of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(key)


if __name__ == "__main__":
    main()
