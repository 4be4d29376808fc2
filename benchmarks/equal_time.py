"""Searches against references at equal total time: which gives the higher test accuracy within a latency?

Three methods get the same number of minutes on the same images, one after the other, nothing else running:

* `search`: `nas search --budget`, with its defaults. Its time includes the pilot, the candidates and the reference.
* `former`: the search by hand that was the default before there was a budget: 32 px, few epochs, short final training.
  Its number of candidates is set so that it takes about the same time.
* `reference`: the published network that `search` chose as its reference, trained for the whole time by `nas train`.

    python -m benchmarks.equal_time run results.jsonl --data DIR --target-latency 5ms --minutes 10 --seeds 0 1 2
    python -m benchmarks.equal_time table results.jsonl

The latency table should be warm: measure it with `nas profile` first. Results are JSON lines; a run continues where it
was interrupted. `table` prints test accuracies, latencies and times, and the differences to the reference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METHODS = ("search", "reference", "former")
FORMER_TRIALS = 4
"""Candidates of the former default whose time tells how many fit."""


def nas(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run `nas` and return its JSON result and the seconds that it took."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "nas", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout), time.monotonic() - begun


def run_method(method: str, args: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """Return the result of one method with one seed."""
    common = ["--data", args.data, "--seed", str(seed)]
    search = ["search", *common, "--target-latency", args.target_latency, "--objective", args.objective]
    search += ["--space", args.space]
    if method == "search":
        result, seconds = nas(*search, "--budget", f"{args.minutes}min", "--run", str(folder))
        reference = (result["against"] or [{}])[0]
        certificate = result["evaluator_certificate"]
        return {
            **_tested(result["best"], seconds), "latency_ms": result["best"]["latency_ms"]["measured"],
            "reference": reference.get("name"), "resolution": reference.get("resolution"),
            "reference_accuracy": reference.get("test_accuracy"), "trials": result["trials"], "tied": result["tied"],
            "reliability": [certificate[key] for key in ("reliability", "low", "high")],
            "candidates": (certificate["candidates"] or {}).get("reliability"), "spent": result["budget"]["spent"],
        }  # fmt: skip
    if method == "former":
        by_hand = [*search, "--against", "none", "--resolution", str(args.former_resolution), "--run", str(folder)]
        by_hand += ["--proxy-resolution", "32", "--proxy-epochs", "4", "--trials"]
        _, few_s = nas(*by_hand, str(FORMER_TRIALS))
        (folder / "result.json").unlink()
        wanted = FORMER_TRIALS + max(1, round(FORMER_TRIALS * (60 * args.minutes - few_s) / few_s))
        result, more_s = nas(*by_hand, str(wanted))
        latency_ms = result["best"]["latency_ms"]["measured"]
        return {**_tested(result["best"], few_s + more_s), "latency_ms": latency_ms, "trials": result["trials"]}
    return _train_reference(args, common, folder)


def _train_reference(args: argparse.Namespace, common: list[str], folder: Path) -> dict[str, Any]:
    """Train the reference for the whole time, in as many epochs as fit."""
    from nas.searching.winner_training import winner_recipe
    from nas.spaces.yaml_format import load_architecture
    from nas.training.speed import measure_speed
    from nas.training.tasks.classification import Classification

    chosen = next(row for row in read(args.results) if row["method"] == "search" and row["data"] == args.data)
    name, resolution = args.reference or chosen["reference"], args.reference_resolution or chosen["resolution"]
    task = Classification.load(args.data)
    arch, recipe = load_architecture(name).at(resolution).for_classes(task.num_classes), winner_recipe(task, 10)
    speed = measure_speed(arch, task, recipe)
    images = len(task.data.train), len(task.data.validation)
    epochs = speed.epochs_within(60 * args.minutes - 15, recipe, *images)
    size = ["--resolution", str(resolution), "--epochs", str(epochs), "--out", str(folder)]
    result, seconds = nas("train", name, *size, *common)
    return {**_tested(result, seconds), "reference": name, "resolution": resolution, "epochs": epochs}


def _tested(result: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {"accuracy": result["test_accuracy"], "params": result["params"], "macs": result["macs"], "seconds": seconds}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(args: argparse.Namespace) -> None:
    """Run what is missing, and append each result as soon as it is there."""
    done = {(row["data"], row["minutes"], row["method"], row["seed"]) for row in read(args.results)}
    for seed in args.seeds:
        for method in args.methods:
            key = (args.data, args.minutes, method, seed)
            if key in done:
                continue
            folder = args.folder / f"{Path(args.data).name}-{args.minutes:g}min-{method}-seed{seed}"
            facts = {"data": args.data, "minutes": args.minutes, "method": method, "seed": seed}
            facts |= {"target": args.target_latency, "space": args.space, "objective": args.objective}
            with args.results.open("a") as file:
                file.write(json.dumps({**facts, **run_method(method, args, seed, folder)}) + "\n")


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{'data':<14}{'min':>5} {'method':<10}{'n':>3}{'test %':>8}{'sd':>6}{'ms':>8}{'took':>8}"
    for data, minutes in dict.fromkeys((row["data"], row["minutes"]) for row in rows):
        for method in METHODS:
            same = [row for row in rows if (row["data"], row["minutes"], row["method"]) == (data, minutes, method)]
            if not same:
                continue
            accuracies = [100 * row["accuracy"] for row in same]
            deviation = statistics.stdev(accuracies) if len(same) > 1 else float("nan")
            times = [row["latency_ms"] for row in same if row.get("latency_ms")]
            latency = f"{statistics.fmean(times):8.2f}" if times else " " * 8
            took = statistics.fmean(row["seconds"] for row in same) / 60 / minutes
            yield (
                f"{Path(data).name:<14}{minutes:>5g} {method:<10}{len(same):>3}{statistics.fmean(accuracies):>8.1f}"
                f"{deviation:>6.1f}{latency}{took:>8.0%}"
            )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--target-latency", default="5ms")
    parser.add_argument("--objective", default="constrained")
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["search", "reference"])
    parser.add_argument("--reference", help="the reference; by default the one that `search` chose")
    parser.add_argument("--reference-resolution", type=int)
    parser.add_argument("--former-resolution", type=int, default=224)
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    args = parser.parse_args()
    if args.command == "run":
        run(args)
    for line in lines(read(args.results)):
        print(line)


if __name__ == "__main__":
    main()
