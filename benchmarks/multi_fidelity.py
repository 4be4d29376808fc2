"""What stopping early saves and what it loses: recorded learning curves, replayed through the rungs of `nas search`.

    python benchmarks/multi_fidelity.py CURVES.jsonl [--orders 1000] [--eta 2] [--min-epochs 1] [--objective soft
        --target-latency 20ms]

CURVES.jsonl has one training a line: {"architecture": name, "seed": n, "curve": [accuracy after each epoch, ...],
"latency_ms": ..., or "macs": ...}; all curves are equally long. A header line with "format" is passed over. A training
that is stopped is a prefix of its curve, for an evaluator is a deterministic generator. In each of many random orders
every architecture comes once, with one of its seeds, as in a random search; a controller that learns would bring
better ones later.

Printed for each way to spend epochs: the share of the epochs of full training, and the regret, which is the best score
of all less the winner's, at the mean final accuracy over all seeds of an architecture as the truth. Full training has
a regret too: its winner may have been lucky. `subset` trains fully, in the same order, as many as the epochs of
halving pay for. With the objective `pareto` the regret is the share of the hypervolume that the front of those that
finished lacks, also at the true accuracies. Intervals (95 %) are over the orders, of these networks.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from nas.errors import NasError, UsageError
from nas.searching.early_stopping import Rungs, make_rungs, spent
from nas.study.objectives import OBJECTIVES, Metrics, Objective, make_objective
from nas.study.pareto import volume
from nas.study.ranking import front
from nas.study.trials import Trial, TrialState
from nas.utils.units import parse_latency

Race = list[tuple[tuple[float, ...], Metrics]]
"""Full curves in the order of a search, each with its costs and its true accuracy."""


@dataclass(frozen=True)
class Recorded:
    """An architecture with a full curve for each seed, and its metrics at the true accuracy."""

    curves: tuple[tuple[float, ...], ...]
    truth: Metrics


def read_curves(path: Path) -> list[Recorded]:
    """Return the architectures of a file of curves. Raises UsageError with file, line and rule."""
    found: dict[str, tuple[list[tuple[float, ...]], float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if "format" in row:  # the first line of a recorded reference
                continue
            curve = tuple(float(accuracy) for accuracy in row["curve"])
            cost = float(row["latency_ms"]) if "latency_ms" in row else float(row["macs"]) / 1e6
            curves, _ = found.setdefault(str(row.get("digest") or row["architecture"]), ([], cost))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: not a recorded curve: {error!r}") from error
        if not curve or not all(0 <= accuracy <= 1 for accuracy in curve):
            raise UsageError(f"{path}, line {number}: a curve holds accuracies in [0, 1]: {row['curve']}")
        curves.append(curve)
    lengths = {len(curve) for curves, _ in found.values() for curve in curves}
    if len(lengths) != 1 or len(found) < 2:
        raise UsageError(f"{path}: needs two architectures and equally long curves: {len(found)}, {sorted(lengths)}")
    return [
        Recorded(tuple(curves), Metrics(fmean(curve[-1] for curve in curves), cost, 0, 0))
        for curves, cost in found.values()
    ]


def running(number: int, curve: tuple[float, ...], metrics: Metrics) -> Trial:
    """Return a candidate with the curve so far as a trial."""
    return Trial(number, {}, "", TrialState.RUNNING, metrics, curve=curve)


def replay(rungs: Rungs, race: Race, objective: Objective) -> list[Trial]:
    """Return each candidate's curve as far as the rungs let it come."""
    recorded: list[Trial] = []
    for number, (curve, metrics) in enumerate(race):
        lengths = [*rungs.of(number), len(curve)]
        entries = (running(number, curve[:length], metrics) for length in lengths)
        ended = next(e for e in entries if len(e.curve) == len(curve) or rungs.stops(e, recorded, objective))
        recorded.append(ended)
    return recorded


def hypervolume(points: Iterable[Metrics], reference_ms: float) -> float:
    """Return the area that the points dominate above accuracy 0 and below `reference_ms`, in ms."""
    return volume([(point.accuracy, reference_ms - point.latency_ms) for point in points])


def regret(entries: Sequence[Trial], race: Race, objective: Objective) -> float:
    """Return how much worse the truth of what is found is than the best there is; `entries` may be some of the race."""
    finished = [entry for entry in entries if len(entry.curve) == len(race[0][0])]
    seen = [entry.metrics_after(len(entry.curve)) for entry in finished]
    truths = [metrics for _, metrics in race]
    if len(objective.directions) > 1:
        end_ms = 1.1 * max(metrics.latency_ms for metrics in truths)
        kept = [truths[finished[index].number] for index in front(seen)]
        return 1 - hypervolume(kept, end_ms) / hypervolume(truths, end_ms)
    winner = max(range(len(finished)), key=lambda index: objective.score(seen[index]))
    return max(map(objective.score, truths)) - objective.score(truths[finished[winner].number])


def compare(
    recorded: Sequence[Recorded], objective: Objective, eta: int, min_epochs: int, orders: int, seed: int = 0
) -> dict[str, list[tuple[float, float]]]:
    """Return (share of the epochs, regret) in each order, for each way to spend epochs."""
    epochs = len(recorded[0].curves[0])
    ways = {name: make_rungs(name, eta, min_epochs, epochs) for name in ("full", "halving", "hyperband")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ways, "subset")}
    for order in range(orders):
        rng = random.Random(f"{seed}/{order}")
        race = [(rng.choice(each.curves), each.truth) for each in rng.sample(recorded, len(recorded))]
        whole = epochs * len(race)
        for name, rungs in ways.items():
            entries = replay(rungs, race, objective)
            cost = spent(entry.curve for entry in entries)
            found[name].append((cost / whole, regret(entries, race, objective)))
            if name == "halving":
                some = max(1, round(cost / epochs))
                subset = [running(number, curve, metrics) for number, (curve, metrics) in enumerate(race[:some])]
                found["subset"].append((some * epochs / whole, regret(subset, race, objective)))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % confidence interval."""
    return fmean(values), 1.96 * stdev(values) / len(values) ** 0.5


def main() -> None:
    """Read, replay, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--eta", type=int, default=2)
    parser.add_argument("--min-epochs", type=int, default=1)
    parser.add_argument("--objective", choices=sorted(OBJECTIVES), help="default: the accuracy alone")
    parser.add_argument("--target-latency", default="20ms")
    args = parser.parse_args()
    try:
        recorded = read_curves(args.curves)
        objective = make_objective("constrained", float("inf"))
        if args.objective:
            objective = make_objective(args.objective, parse_latency(args.target_latency))
        found = compare(recorded, objective, args.eta, args.min_epochs, args.orders)
    except (NasError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    curves = [curve for each in recorded for curve in each.curves]
    print(
        f"{len(recorded)} architectures, {len(curves)} trainings of {len(curves[0])} epochs; {args.orders} orders, "
        f"eta {args.eta}, first rung after {args.min_epochs}, {args.objective or 'accuracy alone'}"
    )
    print(f"{'':10} {'epochs, % of full':>20} {'regret, points':>20} {'less full, points':>20}  best found")
    full = [lost for _, lost in found["full"]]
    for name in ("full", "halving", "hyperband", "subset"):
        shares, losses = zip(*found[name], strict=True)
        more = [lost - reference for lost, reference in zip(losses, full, strict=True)]
        cells = [f"{100 * mean:.2f} ± {100 * half:.2f}" for mean, half in map(interval, (shares, losses, more))]
        print(f"{name:10} {cells[0]:>20} {cells[1]:>20} {cells[2]:>20}  {fmean(lost <= 0 for lost in losses):.0%}")


if __name__ == "__main__":
    main()
