"""Compares training recipes at an equal number of images seen: each changes one thing of a base, or combines some.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py run out.jsonl --data DIR ... --recipes base crop ema --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/recipes.py rank out.jsonl --data DIR --images 4000 --recipes base ema
    python benchmarks/recipes.py table out.jsonl

`run` trains networks and appends one line for each training: its test accuracy, balanced accuracy, curve and processor
time. `rank` trains networks of a space briefly, as candidates of a search, and appends their validation accuracies.
Both continue where they were killed. `table` prints, for each set and length, the mean and the deviation over seeds of
each recipe and its paired difference to the base; for `rank`, the spread between networks, the deviation between seeds,
and the share of the variance that belongs to the networks (intraclass correlation).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from nas.evaluators.rank_check.reference_trainings import stratified_networks
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture, load_space
from nas.training.loop import train
from nas.training.recipe import Recipe
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset
from nas.training.tasks.metrics import balanced_accuracy
from nas.utils.allocator import keep_freed_memory

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "crop_0.35": {"crop_scale": 0.35},
    "crop_0.6": {"crop_scale": 0.6},
    "ema_5": {"ema_share": 0.05},
    "ema_20": {"ema_share": 0.2},
    "last_20": {"average_last": 0.2},
    "last_50": {"average_last": 0.5},
    "cosine": {"schedule": "cosine", "warmup_epochs": 2.0},
    "no_smoothing": {"label_smoothing": 0.0},
    "randaugment": {"randaugment": 7},
    "norms": {"decay_norms": False},
    "decay_0.05": {"weight_decay": 0.05},
    "grow_0.5": {"first_size": 0.5},
    "rate_0.006": {"learning_rate": 0.006},
    "rate_0.0015": {"learning_rate": 0.0015},
    "rate_0.0005": {"learning_rate": 0.0005},
    "rate_0.001": {"learning_rate": 0.001},
    "batch_64": {"batch_size": 64},
    "batch_16": {"batch_size": 16},
    "cutmix": {"cutmix": 1.0},
    "mixup": {"mixup": 0.2},
}
"""What each recipe changes of the base. "a+b" on the command line combines some."""


def recipe_of(name: str, epochs: int) -> Recipe:
    """Return the recipe of a name such as "crop_0.35+ema_5"."""
    changes: dict[str, Any] = {}
    for part in name.split("+"):
        changes |= VARIANTS[part]
    warmup = min(changes.get("warmup_epochs", 0.0), epochs / 2)
    return Recipe(epochs, **{**changes, "warmup_epochs": warmup})


def trained(args: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Train named networks that are not done, and yield their results on the test images."""
    for data in args.data:
        task = Classification.load(data)
        sets = task.train_set(args.resolution), task.validation_set(args.resolution)
        test_set = task.test_set(args.resolution)
        epochs = max(1, round(args.images / len(sets[0])))
        for seed, name, network in ((s, r, n) for s in args.seeds for r in args.recipes for n in args.networks):
            key = [Path(data).name, args.images, args.resolution, network, name, seed]
            if json.dumps(key) in done:
                continue
            begun = time.process_time()
            torch.manual_seed(seed)
            model = build(load_architecture(network).at(args.resolution).for_classes(task.num_classes))
            curve = list(train(model, task, *sets, recipe_of(name, epochs), seed))
            seconds = time.process_time() - begun
            report = task.evaluate(model, test_set, torch.device("cpu"))
            yield {
                "key": key, "accuracy": report.accuracy, "balanced": balanced_accuracy(report.confusion),
                "curve": curve, "cpu_s": seconds,
            }  # fmt: skip


def ranked(args: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Train networks of a space that are not done, and yield their results on the validation and the test images."""
    for data in args.data:
        task = Classification.load(data)
        space = replace(load_space(args.space), resolution=(args.deployed,)).for_classes(task.num_classes)
        archs = stratified_networks(space, args.count, 0)
        sets = task.train_set(args.resolution, args.part), task.validation_set(args.resolution)
        test_set = task.test_set(args.resolution)
        epochs = max(1, round(args.images / len(sets[0])))
        for seed, name, arch in ((s, r, a) for s in args.seeds for r in args.recipes for a in archs):
            key = [Path(data).name, args.images, args.resolution, arch.digest, name, seed, "rank"]
            if json.dumps(key) in done:
                continue
            begun = time.process_time()
            torch.manual_seed(seed)
            model = build(arch.at(args.resolution))
            curve = list(train(model, task, *sets, recipe_of(name, epochs), seed))
            seconds = time.process_time() - begun
            (loss, accuracy), (test_loss, test_accuracy) = (measured(model, task, each) for each in (sets[1], test_set))
            yield {
                "key": key, "accuracy": accuracy, "loss": loss, "test_accuracy": test_accuracy, "test_loss": test_loss,
                "curve": curve, "cpu_s": seconds,
            }  # fmt: skip


@torch.no_grad()
def measured(model: torch.nn.Module, task: Classification, images: ImageDataset) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy of a network on some images."""
    logits = torch.cat([task.outputs(model.eval(), batch) for batch, _ in DataLoader(images, 256)])
    labels = torch.tensor(images.labels)
    right = (logits.argmax(1) == labels).float().mean()
    return torch.nn.functional.cross_entropy(logits, labels).item(), right.item()


def reliability(values: list[list[float]]) -> tuple[float, float, float]:
    """Return spread between networks, deviation between seeds, and the intraclass correlation of one training."""
    count = len(values[0])
    within = statistics.mean(statistics.variance(seeds) for seeds in values)
    between = max(0.0, statistics.variance([statistics.mean(seeds) for seeds in values]) - within / count)
    return between**0.5, within**0.5, between / (between + within) if between + within else 0.0


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print a table for each set and number of images."""
    tables: dict[tuple[Any, ...], dict[str, dict[tuple[Any, ...], dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        data, images, resolution, network, name, seed, *kind = row["key"]
        tables[(data, images, resolution, *kind)][name][network, seed] = row
    for head, found in sorted(tables.items(), key=str):
        print(f"\n{head[0]}, {head[1]} images seen, {head[2]} px{' (candidates)' if len(head) > 3 else ''}")
        (print_ranking if len(head) > 3 else print_recipes)(found)


def print_recipes(found: dict[str, dict[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Print a line for each recipe: test results in percent and points."""
    print(f"{'recipe':34} {'n':>2} {'accuracy':>8} {'sd':>4} {'- base':>12} {'balanced':>8} {'- base':>12}  cpu s")
    base = found.get("base", {})
    for name, each in found.items():
        words = [f"{name:34} {len(each):2}"]
        for measure in ("accuracy", "balanced"):
            words.append(f"{100 * statistics.mean(row[measure] for row in each.values()):8.1f}")
            if measure == "accuracy":
                words.append(f"{deviation(each):4.1f}")
            pairs = [100 * (each[k][measure] - base[k][measure]) for k in each.keys() & base.keys()]
            error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
            words.append(f"{statistics.mean(pairs):+6.1f} ±{error:4.1f}" if pairs else " " * 12)
        print(*words, f"{statistics.mean(row['cpu_s'] for row in each.values()):6.0f}")


def deviation(each: dict[tuple[Any, ...], dict[str, Any]]) -> float:
    """Return the deviation of the accuracy between seeds, in points, pooled over the networks."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for (network, _), row in each.items():
        groups[network].append(100 * row["accuracy"])
    several = [statistics.variance(values) for values in groups.values() if len(values) > 1]
    return statistics.mean(several) ** 0.5 if several else float("nan")


MEASURES = {"accuracy": 100, "loss": -1, "test_accuracy": 100, "test_loss": -1}
"""What may rank candidates, with the factor that makes it points, or higher if it is better."""


def print_ranking(found: dict[str, dict[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Print lines for each recipe: for each measure the mean, the spreads, and the reliability.

    "rho" is Spearman's correlation of one training, averaged over the seeds, with the mean test accuracy of the network
    over all recipes and seeds.
    """
    from scipy.stats import spearmanr

    tests: dict[str, list[float]] = defaultdict(list)
    for each in found.values():
        for (network, _), row in each.items():
            tests[network].append(row["test_accuracy"])
    truth = {network: statistics.mean(values) for network, values in tests.items()}
    print(
        f"{'recipe':20} {'measure':14} {'n':>2} {'mean':>7} {'networks':>8} {'seeds':>6} {'ICC':>5} {'rho':>5}  cpu s"
    )
    for name, each in found.items():
        networks, seeds = sorted({network for network, _ in each}), sorted({seed for _, seed in each})
        networks = [network for network in networks if all((network, seed) in each for seed in seeds)]
        if len(seeds) < 2 or len(networks) < 3:
            continue
        cost = statistics.mean(row["cpu_s"] for row in each.values())
        for measure, factor in MEASURES.items():
            values = [[factor * each[network, seed][measure] for seed in seeds] for network in networks]
            spread, noise, icc = reliability(values)
            expected = [truth[network] for network in networks]
            rho = statistics.mean(spearmanr(column, expected).statistic for column in zip(*values, strict=True))
            mean = statistics.mean(statistics.mean(row) for row in values)
            words = f"{name:20} {measure:14} {len(networks) * len(seeds):2} {mean:7.2f} {spread:8.2f} {noise:6.2f}"
            print(f"{words} {icc:5.2f} {rho:5.2f} {cost:6.1f}")


def main() -> None:
    """Train what the command line asks for, or print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("run", "rank", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--recipes", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v3_small_1.0", "mnasnet_b1_0.5"])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--count", type=int, default=8, help="networks of the space")
    parser.add_argument("--deployed", type=int, default=64, help="resolution of the space's networks")
    parser.add_argument("--part", type=int, default=0, help="training images of `rank`; 0: all")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.what == "table":
        print_tables(rows)
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    done = {json.dumps(row["key"]) for row in rows}
    for row in (trained if args.what == "run" else ranked)(args, done):
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{' '.join(map(str, row['key']))}: {row['accuracy']:.3f} {row['cpu_s']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
