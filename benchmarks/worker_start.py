"""How long it takes until worker processes are ready, forked by a server that has imported torch, and spawned.

    python benchmarks/worker_start.py [--workers 4] [--rounds 3]

Rounds alternate. The first round of the server includes its own start. The evaluator is the default one, proxy training
on the digits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from statistics import median
from unittest import mock

from nas.evaluators.base import EvaluatorContext
from nas.evaluators.executors.evaluator_host import READY
from nas.evaluators.executors.processes import ProcessWorker, worker_context
from nas.evaluators.proxy_training import ProxyTraining
from nas.spaces.yaml_format import load_space
from nas.training.tasks.classification import Classification


def build() -> ProxyTraining:
    """Return the evaluator of a worker."""
    return ProxyTraining(EvaluatorContext(Classification.load("digits"), load_space("mobile").for_classes(10), Path()))


def seconds_until_ready(workers: int) -> float:
    """Return how many seconds pass until all workers have created their evaluators."""
    begun = time.perf_counter()
    started = [ProcessWorker(build, 1) for _ in range(workers)]
    replies = [worker.receive() for worker in started]
    elapsed = time.perf_counter() - begun
    for worker in started:
        worker.kill()
    if replies != [(READY, None)] * workers:
        raise SystemExit(f"a worker did not get ready: {replies}")
    return elapsed


def main() -> None:
    """Print the seconds of each round, and the ratio of the medians without the first round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    methods = {"forked": worker_context(), "spawned": multiprocessing.get_context("spawn")}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.rounds):
        for name, context in methods.items():
            with mock.patch("nas.evaluators.executors.processes.worker_context", return_value=context):
                found[name].append(seconds_until_ready(args.workers))
    for name, seconds in found.items():
        print(f"{name:8} {args.workers} workers ready in " + ", ".join(f"{value:.2f}" for value in seconds) + " s")
    forked, spawned = (median(found[name][1:] or found[name]) for name in methods)
    print(f"spawned / forked, without the first round: {spawned / forked:.1f}")


if __name__ == "__main__":
    main()
