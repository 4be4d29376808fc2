"""How well zero-cost scores rank the networks of a table of accuracies, and what a score costs.

    OMP_NUM_THREADS=1 python benchmarks/zero_cost.py nb_macro accuracies.csv --data cifar10

`--networks 100` says how many, `--scores naswot macs` which scores.

`accuracies.csv` as `--accuracies` takes it (benchmarks/nb_macro.py writes one of NAS-Bench-Macro). Random networks of
the table are scored at the space's proxy resolution; printed are Kendall's tau and Spearman's rho against the mean of
the seeds at the last fidelity, the 95 % interval of tau (bootstrap over the networks), and the median seconds.
Parameters and MACs are the baselines; where the table has seeds, tau between the first and the mean of the others is
what a training itself would reach.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import torch

from nas.evaluators.accuracy_table import read_accuracies
from nas.evaluators.rank_check.rank_correlation import agreement
from nas.evaluators.zero_cost_scores import ZERO_COST, draw_batch, score
from nas.spaces.yaml_format import load_space
from nas.training.tasks.classification import Classification


def line(name: str, scores: list[float], truth: list[float], cost: str = "") -> str:
    """Return a row of the table."""
    found = agreement(scores, truth)
    low, high = found.kendall_interval
    return f"{name:20} {found.kendall:6.3f}  {low:6.3f} to {high:6.3f}  {found.spearman:6.3f}  {cost}"


def main() -> None:
    """Score the networks that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("space")
    parser.add_argument("accuracies", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--scores", nargs="+", choices=ZERO_COST, default=list(ZERO_COST))
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = Classification.load(args.data, args.data_root)
    space = load_space(args.space).for_classes(task.num_classes)
    rows = [row for row in read_accuracies(args.accuracies, space).rows.values() if row.architecture]
    rows = random.Random(0).sample(rows, min(args.networks, len(rows)))
    truth = [statistics.mean(row.accuracies[-1]) for row in rows]
    print(f"{len(rows)} networks of {args.space}, {args.data} at {space.proxy.resolution} px")
    print(f"{'':20} {'tau':>6}  {'95 %':^16}  {'rho':>6}  s")
    if len(rows[0].accuracies[-1]) > 1:
        first = [row.accuracies[-1][0] for row in rows]
        print(line("one seed, others", first, [statistics.mean(row.accuracies[-1][1:]) for row in rows]))
    batch = draw_batch(task, space.proxy.resolution, 0)
    for name in args.scores:
        scores, seconds = [], []
        for row in rows:
            assert row.architecture
            started = time.perf_counter()
            scores.append(score(name, row.architecture, batch, 0))
            seconds.append(time.perf_counter() - started)
        print(line(name, scores, truth, f"{statistics.median(seconds):.3f}"), flush=True)


if __name__ == "__main__":
    main()
