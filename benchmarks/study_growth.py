"""What a study costs as it grows: claiming and recording a trial, and opening all, beside plain Optuna.

Trials are of the mnasnet space, about 44 parameters each, with learning curves of 5 epochs. Plain Optuna is
`study.ask`, `suggest_categorical` for each parameter, and `study.tell`, with RandomSampler and the same attributes.
Both have the same storage. Nothing is evaluated: it is the engine's own time.

    python benchmarks/study_growth.py --sizes 10 1000 10000
    python benchmarks/study_growth.py --storage sqlite --sizes 10 1000
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from nas.objective import Metrics
from nas.space import Space
from nas.space_file import load_space
from nas.storage import open_storage
from nas.study import Study, open_study

CURVE = (0.5, 0.6, 0.7, 0.75, 0.8)
MEASURED = 20
"""Trials that are timed at each size."""


def record(study: Study, space: Space, seed: int) -> None:
    """Claim a random candidate and end it, as the loop of a search does."""
    study.refresh()
    rng = random.Random(seed)
    claim = study.claim(space.sample(rng), f"{seed:016x}")
    assert claim is not None
    metrics = Metrics(rng.random(), 10.0, 4_000_000, 300_000_000)
    assert study.end(claim, metrics, (metrics.accuracy,), 1.0, CURVE) is not None


def tell(study: optuna.Study, space: Space, seed: int) -> None:
    """Do the same with Optuna alone."""
    trial = study.ask()
    space.walk(trial.suggest_categorical)
    for name, value in (("digest", f"{seed:016x}"), ("curve", CURVE), ("metrics", {"accuracy": 0.5}), ("s", 1.0)):
        trial.set_user_attr(name, value)
    study.tell(trial, random.Random(seed).random())


def fill(storage: Any, name: str, space: Space, have: int, size: int) -> None:
    """Bring a study to so many trials, each written at once: how they came there is not timed."""
    study = optuna.load_study(study_name=name, storage=storage)
    known = {key: optuna.distributions.CategoricalDistribution(values) for key, values in space.choices.items()}
    made = []
    for seed in range(have, size):
        choices = space.sample(random.Random(10**6 + seed))
        attributes = {
            "digest": f"{10**6 + seed:016x}",
            "worker": "w",
            "metrics": Metrics(0.5, 10.0, 4_000_000, 300_000_000).to_dict(),
            "duration_s": 1.0,
            "curve": list(CURVE),
        }
        made.append(
            optuna.trial.create_trial(
                params=choices, distributions={key: known[key] for key in choices}, value=0.5, user_attrs=attributes
            )
        )
    study.add_trials(made)


def milliseconds(step: Any) -> float:
    """Return the median time of a step that is given 0, 1, ..."""
    times = []
    for index in range(MEASURED):
        started = time.perf_counter()
        step(index)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--storage", choices=["journal", "sqlite"], default="journal")
    args = parser.parse_args()
    space = load_space("mnasnet")
    print(f"{'trials':>7} {'ours, ms':>9} {'Optuna, ms':>11} {'ratio':>6} {'opening, s':>11}")
    with tempfile.TemporaryDirectory() as base:
        ours, theirs = Path(base) / "ours", Path(base) / "theirs"
        theirs.mkdir()
        url = f"sqlite:///{base}/ours.db" if args.storage == "sqlite" else None
        other_url = f"sqlite:///{base}/theirs.db" if url else None
        with open_study(ours, {}, space, ("maximize",), url):
            pass
        sampler = optuna.samplers.RandomSampler(seed=0)
        optuna.create_study(study_name="theirs", storage=open_storage(theirs, other_url), direction="maximize")
        have = 0
        for size in args.sizes:
            fill(open_storage(ours, url), "ours" if url else "nas", space, have, size)
            fill(open_storage(theirs, other_url), "theirs", space, have, size)
            have = size + MEASURED
            started = time.perf_counter()
            with open_study(ours, {}, space, ("maximize",), url) as study:
                opening = time.perf_counter() - started
                taken = milliseconds(
                    lambda index, study=study, size=size: record(study, space, 2 * 10**6 + size + index)
                )
            kept = open_storage(theirs, other_url)
            plain = optuna.load_study(study_name="theirs", storage=kept, sampler=sampler)
            usual = milliseconds(lambda index, plain=plain: tell(plain, space, index))
            print(f"{size:7d} {taken:9.1f} {usual:11.1f} {taken / usual:6.2f} {opening:11.2f}", flush=True)


if __name__ == "__main__":
    main()
