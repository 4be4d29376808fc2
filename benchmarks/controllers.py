"""How many evaluations a controller needs: ours and peers on three problems with a known answer, same seeds for all.

    python -m benchmarks.controllers [--seeds 20] [--processes 2] [--results controllers.jsonl] [--plot controllers.png]

Prints, for each problem, the median number of evaluations until the best feasible network evaluated is within 0.2
points of the best known, the share of seeds that arrived, and the mean regret in points after 50, 100, 200 and 400
evaluations with a 95 % interval over seeds; then the same regret under the soft reward. A run that is finished is
written to --results at once: what was killed goes on. Needs ../shared/bench.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_methods import PEERS, SLOW, methods
from benchmarks.search_problems import PROBLEMS, REACHED, SearchProblem
from nas.errors import UsageError
from nas.spaces.encoding import Floats
from nas.study.objectives import Constrained, Objective, Reward
from nas.utils.files import append_rows

OURS = "nas: surrogate"
AT = (50, 100, 200, 400)
SOFT_METHODS = ("Optuna TPE", "regularized evolution (50/10)", OURS)
SOFT_BUDGET = 200
Task = tuple[str, str, str, int, int]
"""Problem, objective, method, seed, budget."""


def run(task: Task) -> dict[str, Any] | None:
    """Return one search: after each evaluation, the best true value so far; None where it does not fit."""
    name, kind, method, seed, budget = task
    problem = PROBLEMS[name]()
    objective: Objective = Constrained(problem.limit) if kind == "constrained" else Reward(problem.limit)
    best, curve, started = -np.inf, [], time.monotonic()
    try:
        asked = methods()[method](problem, objective, seed)
        row = next(asked)
        for number in range(budget):
            latency = problem.domain.facts(row[None]).latency_ms
            if kind == "soft" or latency[0] <= problem.limit:
                best = max(best, float(objective.scores(problem.true(row[None]), latency)[0]))
            curve.append(best)
            if number + 1 < budget:
                row = asked.send(float(problem.evaluate(row[None], 1000 * seed + number)[0]))
    except UsageError:  # a controller that does not suit the domain
        return None
    except StopIteration:
        curve += [best] * (budget - len(curve))
    steps = [(at, value) for at, value in enumerate(curve) if at == 0 or value > curve[at - 1]]
    seconds = round(time.monotonic() - started, 2)
    return {"problem": name, "objective": kind, "method": method, "seed": seed, "budget": budget, "steps": steps,
            "seconds": seconds}  # fmt: skip


def tasks(names: Sequence[str], seeds: int, only: Sequence[str]) -> Iterator[Task]:
    """Yield what is to be run, ours and the best peers first."""
    every = sorted(methods(), key=lambda method: (method in SLOW, method != OURS, method not in PEERS))
    for method in every:
        for name in names:
            for seed in range(seeds):
                if not only or method in only:
                    yield name, "constrained", method, seed, SLOW.get(method, AT[-1])
    for method in SOFT_METHODS:
        for name in names:
            for seed in range(seeds):
                if not only or method in only:
                    yield name, "soft", method, seed, SOFT_BUDGET


def curve_of(row: dict[str, Any]) -> Floats:
    """Return the best value after each evaluation, (budget,)."""
    places = np.array([at for at, _ in row["steps"]])
    values = np.array([value for _, value in row["steps"]], np.float64)
    return values[np.searchsorted(places, np.arange(row["budget"]), side="right") - 1]


@lru_cache
def best_reward(name: str) -> float:
    """Return the best soft reward known: of all rows, or of 100 generations of mutants."""
    problem = PROBLEMS[name]()
    domain, objective = problem.domain, Reward(problem.limit)

    def rewards(rows: Any) -> Floats:
        return objective.scores(problem.true(rows), domain.facts(rows).latency_ms)

    if domain.size <= 100_000:
        return float(rewards(domain.all_rows()).max())
    rng = np.random.default_rng(0)
    rows = domain.sample(10_000, rng)
    for _ in range(100):
        both = np.unique(np.concatenate([rows, domain.mutate(rows, rng)]), axis=0)
        rows = both[np.argsort(-rewards(both))[:10_000]]
    return float(rewards(rows).max())


def regrets(rows: Sequence[dict[str, Any]], best: float) -> Floats:
    """Return 100 * (best - value), (seeds, budget), in points; nothing feasible yet counts as the whole accuracy."""
    return np.array([100 * (best - np.maximum(curve_of(row), 0.0)) for row in rows])


def spelled(found: Floats, at: int) -> str:
    """Return the mean after `at` evaluations and half of its 95 % interval."""
    if at > found.shape[1]:
        return "-"
    values = found[:, at - 1]
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():.2f} ± {half:.2f}"


def reached(rows: Sequence[dict[str, Any]], best: float) -> tuple[float, float]:
    """Return the median evaluation that arrived, infinite where fewer than half did, and the share of seeds."""
    needed = []
    for row in rows:
        there = np.flatnonzero(curve_of(row) >= best - REACHED)
        needed.append(float(there[0] + 1) if len(there) else np.inf)
    return float(np.median(needed)), float(np.isfinite(needed).mean())


def runs(rows: Sequence[dict[str, Any]], name: str, kind: str, method: str) -> list[dict[str, Any]]:
    """Return the runs of a method on a problem under an objective."""
    return [row for row in rows if (row["problem"], row["objective"], row["method"]) == (name, kind, method)]


def report(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Print the tables."""
    for name in names:
        problem: SearchProblem = PROBLEMS[name]()
        print(f"\n### {name}: limit {problem.limit:.6g}, best known {100 * problem.best:.2f} %\n")
        heads = " | ".join(f"regret after {at}" for at in AT)
        print(
            f"| method | evaluations to reach (seeds that did) | {heads} | s per run |\n|---|---|{'---|' * len(AT)}---|"
        )
        medians = {}
        for method in methods():
            mine = runs(rows, name, "constrained", method)
            if not mine:
                continue
            median, share = reached(mine, problem.best)
            medians[method] = median
            shown = f"**{median:g}**" if np.isfinite(median) else f"**>{mine[0]['budget']}**"
            found = regrets(mine, problem.best)
            cells = " | ".join(spelled(found, at) for at in AT)
            seconds = np.median([row["seconds"] for row in mine])
            print(f"| {method} | {shown} ({share:.0%} of {len(mine)}) | {cells} | {seconds:.1f} |")
        peers = [medians[method] for method in PEERS if method in medians]
        if peers and OURS in medians:
            least = min(min(medians[method], SLOW.get(method, AT[-1])) for method in PEERS if method in medians)
            arrived = least in peers
            print(f"\nbest peer {'' if arrived else '>'}{least:g}: {least / medians[OURS]:.1f} times ours or more")
        report_soft(rows, name)


def report_soft(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Print the regret under the soft reward, target = the limit."""
    if not any((row["problem"], row["objective"]) == (name, "soft") for row in rows):
        return
    print(f"\nsoft reward, best known {100 * best_reward(name):.2f}\n")
    print("| method | regret after 50 | 100 | 200 |\n|---|---|---|---|")
    for method in SOFT_METHODS:
        if mine := runs(rows, name, "soft", method):
            found = regrets(mine, best_reward(name))
            print(f"| {method} | {' | '.join(spelled(found, at) for at in AT[:3])} |")


def draw(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Write a picture of the mean regret over evaluations, ours thick, with 95 % bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(names), 4.8), layout="constrained")
    drawn = {**{method: f"C{at}" for at, method in enumerate((*PEERS, "random"))}, OURS: "black"}
    lines = {}
    for name, axes in zip(names, np.atleast_1d(figure.subplots(1, len(names))), strict=True):
        problem = PROBLEMS[name]()
        for method, colour in drawn.items():
            mine = runs(rows, name, "constrained", method)
            if not mine:
                continue
            found = np.maximum(regrets(mine, problem.best), 1e-2)
            mean, half = found.mean(axis=0), 1.96 * found.std(axis=0) / np.sqrt(len(found))
            at = np.arange(1, len(mean) + 1)
            lines[method] = axes.plot(at, mean, color=colour, linewidth=3 if method == OURS else 1)[0]
            axes.fill_between(at, np.maximum(mean - half, 1e-2), mean + half, alpha=0.1, color=colour)
        axes.axhline(100 * REACHED, color="black", linewidth=0.5, linestyle=":")
        axes.set(
            title=name, xlabel="evaluations", ylabel="regret (points)", yscale="log", xlim=(1, AT[-1]), ylim=(0.02, 10)
        )
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, then print and draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[], help="methods by name")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("controllers.jsonl"))
    parser.add_argument("--plot", type=Path, default=Path("controllers.png"))
    args = parser.parse_args()
    lines = args.results.read_text().splitlines()[1:] if args.results.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["problem"], row["objective"], row["method"], row["seed"]) for row in rows}
    left = [task for task in tasks(args.problems, args.seeds, args.only) if task[:4] not in done]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for number, row in enumerate(pool.imap(run, left), 1):
            if row is not None:
                rows.append(row)
                append_rows(args.results, {"benchmark": "controllers"}, [row])
            if number % 20 == 0:
                print(f"{number}/{len(left)}: {left[number - 1][2]} on {left[number - 1][0]}", flush=True)
    report(rows, args.problems)
    draw(rows, args.problems, args.plot)


if __name__ == "__main__":
    main()
