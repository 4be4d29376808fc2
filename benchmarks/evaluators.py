"""Which evaluator chooses the best network in equal time? A replay on networks that are all trained to the end.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluators run out.jsonl --data DIR --resolution 48 --folder DIR
    python -m benchmarks.evaluators table out.jsonl

`run` draws networks of a space by strata of their MACs. It trains each one briefly with growing numbers of images, as
candidates of a search are trained; scores it without training; scores it with the shared weights of supernets; and
trains it long, as a winner is trained: its accuracy on the test images is the truth. Each result is a JSON line with
its processor time, and a run continues where it was killed.

`table` replays, for each total time, what each method would have chosen from random halves of the networks:

* `proxy N`: trainings on N images each, of as many networks as fit. The best one is chosen.
* `halving`: trainings on the fewest images; the better half is trained on twice as many, and so on.
* `surrogate N`: trainings on N images of as many networks as fit; a ridge regression on log MACs, log parameters and
  the zero-cost score chooses among all networks. `+ supernet` has the supernet's score as a feature too.
* `supernet`: the network with the best shared weights, if the supernet's training fits.
* `macs`, `params`, `synflow`: the largest value. No training.

The value of a choice is its true accuracy minus the mean of all networks, in points.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas.architecture import Architecture
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.rank_check.reference_trainings import stratified_networks
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.evaluators.zero_cost_scores import draw_batch, score
from nas.networks.network import build, totals, trace
from nas.searching.winner_training import winner_recipe
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space
from nas.training.loop import pick_device, train
from nas.training.tasks.classification import Classification
from nas.utils.allocator import keep_freed_memory
from nas.utils.reporting import Reporter

LEVELS = (800, 1600, 3200, 6400)
"""Images that a brief training sees."""
SCORE = "synflow"
ORDERS = 400
"""Random orders of the networks in a replay."""
PENALTY = 1.0
"""Weight of the squared coefficients in the ridge regression, in units of the noise."""
Row = dict[str, Any]
Pool = dict[str, dict[str, float]]
"""Values by kind, then by the digest of the network."""


class Setup:
    """A data set, a space and its networks."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.task = args, Classification.load(args.data)
        space = replace(load_space(args.space), resolution=(args.resolution,))
        self.space: Space = space.for_classes(self.task.num_classes)
        self.archs = stratified_networks(self.space, args.networks, 0)

    def evaluator_context(self, seen: int, folder: Path) -> EvaluatorContext:
        """Return the context of an evaluator whose trainings see `seen` images."""
        images = min(seen, len(self.task.data.train))
        proxy = Proxy(self.args.resolution, max(1, round(seen / images)), images)
        return EvaluatorContext(self.task, replace(self.space, proxy=proxy), folder, None, 0, Reporter(quiet=True))

    def brief(self, seen: int) -> Callable[[Architecture], float]:
        """Return the evaluation by a brief training."""
        evaluator = ProxyTraining(self.evaluator_context(seen, self.args.folder), keeps_stuck=True)
        return lambda arch: list(evaluator.evaluate(arch, 0))[-1]

    def zero_cost(self) -> Callable[[Architecture], float]:
        """Return the score without training."""
        batch = draw_batch(self.task, self.args.resolution, 0)
        return lambda arch: score(SCORE, arch, batch, 0)

    def truth(self) -> Callable[[Architecture], float]:
        """Return the test accuracy after a long training."""
        task, resolution = self.task, self.args.resolution
        train_set, validation, test_set = (
            make(resolution) for make in (task.train_set, task.validation_set, task.test_set)
        )
        recipe = winner_recipe(task, max(1, round(self.args.truth / len(train_set))))

        def accuracy(arch: Architecture) -> float:
            import torch

            torch.manual_seed(0)
            model = build(arch)
            for _ in train(model, task, train_set, validation, recipe, 0):
                pass
            return task.evaluate(model, test_set, pick_device()).metric_value

        return accuracy

    def supernet(self, epochs: int) -> tuple[SupernetEvaluator, float]:
        """Return a supernet that is trained for some epochs, and the processor time of its training."""
        folder = self.args.folder / f"supernet-{Path(self.args.data).name}-{self.args.resolution}-{epochs}"
        context = self.evaluator_context(len(self.task.data.train), folder)
        training = replace(self.space.supernet, epochs=epochs)
        begun = time.process_time()
        proxy = context.space.proxy
        made = SupernetEvaluator(replace(context, space=replace(self.space, proxy=proxy, supernet=training)))
        return made, time.process_time() - begun


def run(args: argparse.Namespace) -> None:
    """Evaluate what is missing, and append each result as soon as it is there."""
    setup, done = Setup(args), {(row["data"], row["kind"], row["digest"]) for row in read(args.results)}
    data = Path(args.data).name

    def fill(kind: str, make: Callable[[], Callable[[Architecture], float]], before_s: float = 0.0) -> None:
        missing = [arch for arch in setup.archs if (data, kind, arch.digest) not in done]
        evaluate = make() if missing else None
        for arch in missing:
            begun = time.process_time()
            assert evaluate is not None
            value = evaluate(arch)
            row = {"data": data, "kind": kind, "digest": arch.digest, "value": value, "before_s": before_s}
            whole = totals(trace(arch))
            sizes = {"seconds": time.process_time() - begun, "macs": whole.macs, "params": whole.params}
            with args.results.open("a") as file:
                file.write(f"{json.dumps({**row, **sizes})}\n")

    fill(SCORE, setup.zero_cost)
    for seen in LEVELS:
        fill(f"brief {seen}", partial(setup.brief, seen))
    fill("truth", setup.truth)
    for epochs in args.supernet_epochs:
        if any((data, f"supernet {epochs}", arch.digest) not in done for arch in setup.archs):
            supernet, seconds = setup.supernet(epochs)
            fill(f"supernet {epochs}", partial(_shared, supernet), seconds)


def _shared(supernet: SupernetEvaluator) -> Callable[[Architecture], float]:
    """Return the evaluation with the shared weights."""
    return lambda arch: list(supernet.evaluate(arch, 0))[-1]


def read(path: Path) -> list[Row]:
    """Return the results in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Replay:
    """The methods, replayed on the results of one data set."""

    def __init__(self, rows: Sequence[Row]):
        self.values: Pool = {}
        self.seconds: Pool = {}
        self.before_s = {row["kind"]: row["before_s"] for row in rows}
        for row in rows:
            self.values.setdefault(row["kind"], {})[row["digest"]] = row["value"]
            self.seconds.setdefault(row["kind"], {})[row["digest"]] = row["seconds"]
        self.pool = sorted(set.intersection(*(set(found) for found in self.values.values())))
        sizes = {row["digest"]: row for row in rows}
        for name in ("macs", "params"):
            self.values[name] = {digest: math.log(sizes[digest][name]) for digest in self.pool}
        self.levels = sorted(int(kind.split()[1]) for kind in self.values if kind.startswith("brief "))
        self.supernets = [kind for kind in self.values if kind.startswith("supernet ")]

    def best(self, kind: str, among: Sequence[str]) -> str:
        """Return the network with the highest value."""
        return max(among, key=lambda digest: self.values[kind][digest])

    def fitting(self, kind: str, order: Sequence[str], seconds: float) -> list[str]:
        """Return the first networks whose evaluations take at most `seconds` together."""
        found: list[str] = []
        for digest in order:
            seconds -= self.seconds[kind][digest]
            if seconds < 0:
                break
            found.append(digest)
        return found

    def proxy(self, level: int, order: Sequence[str], seconds: float) -> str | None:
        """Return the choice of trainings on `level` images."""
        found = self.fitting(f"brief {level}", order, seconds)
        return self.best(f"brief {level}", found) if found else None

    def halving(self, order: Sequence[str], seconds: float) -> str | None:
        """Return the choice of successive halving with the most networks that fit."""
        for count in range(len(order), 1, -1):
            alive, spent, last = list(order[:count]), 0.0, dict.fromkeys(order, 0.0)
            for level in self.levels:
                kind = f"brief {level}"
                spent += sum(self.seconds[kind][digest] - last[digest] for digest in alive)
                last = self.seconds[kind]
                alive.sort(key=lambda digest: -self.values[kind][digest])
                if len(alive) == 1:
                    break
                alive = alive[: max(1, len(alive) // 2)]
            if spent <= seconds:
                return alive[0]
        return None

    def surrogate(self, level: int, more: Sequence[str], order: Sequence[str], seconds: float) -> str | None:
        """Return the choice of a ridge regression on the networks that fit, among all networks."""
        kind = f"brief {level}"
        found = self.fitting(kind, order, seconds - sum(self.before_s[each] for each in more))
        if len(found) < 3:
            return None
        features = np.array(
            [[self.values[name][digest] for name in ("macs", "params", SCORE, *more)] for digest in order]
        )
        features = (features - features.mean(0)) / (features.std(0) + 1e-9)
        at = list(range(len(found)))
        known = np.array([self.values[kind][digest] for digest in found])
        centred, x = known - known.mean(), features[at]
        slope = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ centred)
        predicted = features @ slope
        residual = centred - predicted[at]
        # what the features do not explain counts half: part of it is noise
        predicted[at] += 0.5 * residual
        return order[int(np.argmax(predicted))]

    def shared(self, kind: str, needed_s: float, order: Sequence[str], seconds: float) -> str | None:
        """Return the choice of values that all networks get at once, if the time suffices for them."""
        return self.best(kind, order) if needed_s <= seconds else None

    def methods(self) -> dict[str, Callable[[Sequence[str], float], str | None]]:
        """Return each method as a function of an order of the networks and a time."""
        found: dict[str, Callable[[Sequence[str], float], str | None]] = {}
        for level in self.levels:
            found[f"proxy {level}"] = partial(self.proxy, level)
        found["halving"] = self.halving
        for level in self.levels:
            found[f"surrogate {level}"] = partial(self.surrogate, level, ())
        for kind in self.supernets:
            needed = self.before_s[kind] + sum(self.seconds[kind][digest] for digest in self.pool)
            found[kind] = partial(self.shared, kind, needed)
            found[f"surrogate {self.levels[0]} + {kind}"] = partial(self.surrogate, self.levels[0], (kind,))
        for kind in (SCORE, "macs", "params"):
            found[kind] = partial(self.shared, kind, 0.0)
        return found

    def value(self, choose: Callable[[Sequence[str], float], str | None], seconds: float) -> float | None:
        """Return the mean true accuracy of the choices minus that of the networks to choose from, in points.

        Each order is a random half of the networks, so that the result does not depend on one network.
        """
        rng, truth = random.Random(0), self.values["truth"]
        found = []
        for _ in range(ORDERS):
            order = rng.sample(self.pool, len(self.pool) // 2)
            if (chosen := choose(order, seconds)) is None:
                return None
            found.append(truth[chosen] - statistics.fmean(truth[digest] for digest in order))
        return 100 * statistics.fmean(found)

    def agreement(self, kind: str) -> float:
        """Return Kendall's tau of a kind of value with the truth."""
        pairs = [(self.values[kind][digest], self.values["truth"][digest]) for digest in self.pool]
        return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def lines(rows: Sequence[Row], minutes: Sequence[float]) -> Iterator[str]:
    """Yield the lines of the tables."""
    for data in dict.fromkeys(row["data"] for row in rows):
        replay = Replay([row for row in rows if row["data"] == data])
        truth = [replay.values["truth"][digest] for digest in replay.pool]
        reach, spread = f"{100 * min(truth):.1f} to {100 * max(truth):.1f} %", 100 * statistics.stdev(truth)
        yield f"{data}: {len(truth)} networks, {reach}, standard deviation {spread:.1f} points"
        kinds = [kind for kind in replay.values if kind != "truth"]
        yield "Kendall's tau: " + ", ".join(f"{kind} {replay.agreement(kind):.2f}" for kind in kinds)
        yield f"{'points above the mean network after':<36}" + "".join(f"{each:>7g}'" for each in minutes)
        for name, choose in replay.methods().items():
            values = [replay.value(choose, 60 * each) for each in minutes]
            yield f"  {name:<34}" + "".join(f"{'-' if value is None else f'{value:+.1f}':>8}" for value in values)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--resolution", type=int, default=48)
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--truth", type=int, default=25_600, help="images that the long training sees")
    parser.add_argument("--supernet-epochs", type=int, nargs="*", default=[20])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--folder", type=Path, default=Path("runs/evaluators"))
    args = parser.parse_args()
    if args.command == "run":
        keep_freed_memory()
        args.folder.mkdir(parents=True, exist_ok=True)
        run(args)
    print("\n".join(lines(read(args.results), args.minutes)))


if __name__ == "__main__":
    main()
