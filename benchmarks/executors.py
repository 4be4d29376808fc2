"""What it costs to evaluate candidates elsewhere: per accuracy, per worker that is started, and what is gained.

    python benchmarks/executors.py [--workers 2] [--ray]

The evaluator sleeps for 50 ms before each of 4 accuracies, so that an executor's own time stands out on a busy machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from nas.architecture import Architecture, BlockSpec
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.executors.processes import ProcessBackend
from nas.evaluators.executors.ray import LOCAL, RayBackend
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor

ARCH = Architecture(8, (), BlockSpec("classifier"))
EPOCHS, NAP_S = 4, 0.05


class Napping:
    """Four accuracies, 50 ms each; none of it for the seed 1."""

    settings: dict[str, object] = {}  # noqa: RUF012

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield them."""
        for _ in range(EPOCHS):
            time.sleep(0 if seed else NAP_S)
            yield 0.5


def drive(executor: Executor, candidates: int, seed: int) -> float:
    """Return how many seconds so many candidates take."""
    started, begun, ended = time.perf_counter(), 0, 0
    while ended < candidates:
        while begun - ended < executor.slots and begun < candidates:
            executor.start(begun, ARCH, seed)
            begun += 1
        ended += executor.wait().ended
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each executor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", action="store_true", help="also a local cluster of Ray")
    args = parser.parse_args()
    makers: dict[str, Callable[[], Executor]] = {
        "here": lambda: InProcessExecutor(Napping()),
        "processes": lambda: WorkerPoolExecutor(ProcessBackend(Napping, args.workers), None, print),
    }
    if args.ray:
        makers["ray"] = lambda: WorkerPoolExecutor(RayBackend(LOCAL, Napping, 1, 0, print), None, print)
    alone = 0.0
    for name, make in makers.items():
        started = time.perf_counter()
        executor = make()
        slots = executor.slots
        drive(executor, slots, 1)
        up_s = time.perf_counter() - started
        own_ms = 1e3 * drive(executor, 250, 1) / 250 / (EPOCHS + 1)
        napping_s = drive(executor, 40, 0)
        executor.close()
        alone = alone or napping_s
        print(
            f"{name:10} {slots} slots, up in {up_s:.2f} s, {own_ms:.3f} ms an event, "
            f"40 candidates in {napping_s:.2f} s: {alone / napping_s:.2f} times as fast as here"
        )


if __name__ == "__main__":
    main()
