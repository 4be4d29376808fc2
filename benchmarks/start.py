"""How long `nas --help` takes, beside the limit of half a second and a bare Python, interleaved medians.

python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT_S = 0.5
RUNS = 15


def seconds(command: list[str]) -> float:
    """Return how long a command takes from outside."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Time both commands in turn."""
    ours = [sys.executable, "-m", "nas.cli.main", "--help"]
    bare = [sys.executable, "-c", "pass"]
    times = [(seconds(ours), seconds(bare)) for _ in range(RUNS)]
    help_s, bare_s = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"nas --help {help_s:.3f} s, bare python {bare_s:.3f} s; of the limit of {LIMIT_S} s: {help_s / LIMIT_S:.2f}")


if __name__ == "__main__":
    main()
