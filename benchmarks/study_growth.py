"""What a trial costs the engine as a study grows, beside plain Optuna: ask, claim, record, tell; and opening all.

Trials are of the mnasnet space, about 44 parameters each, with learning curves of 5 epochs. Ours is the default
controller. Plain Optuna is `study.ask`, `suggest_categorical` for each parameter, and `study.tell`, with TPE's own
defaults and the same attributes. Both have the same storage. Nothing is evaluated. Opening is reading the study and
telling the controller of all its trials.

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

from nas.controllers import CONTROLLERS, Controller
from nas.controllers.base import Problem
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import Metrics, Reward
from nas.study.storage import open_storage
from nas.study.study import Study, open_study

CURVE = (0.5, 0.6, 0.7, 0.75, 0.8)
MEASURED = 10
"""Trials that are timed at each size."""


def record(study: Study, controller: Controller, seed: int) -> None:
    """Ask for a candidate, claim it, end it and tell, as the loop of a search does."""
    study.refresh()
    choices = controller.ask(seed, study.pending)
    claim = study.claim(choices, f"{seed:016x}")
    assert claim is not None
    metrics = Metrics(random.Random(seed).random(), 10.0, 4_000_000, 300_000_000)
    trial = study.end(claim, metrics, (metrics.accuracy,), 1.0, CURVE)
    assert trial is not None
    controller.tell(trial)


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
            "metrics": Metrics(random.Random(seed).random(), 10.0, 4_000_000, 300_000_000).to_dict(),
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
    problem = Problem(encode_space(space, lambda layer: layer.macs / 1e7), Reward(30.0))
    print(f"{'trials':>7} {'ours, ms':>9} {'Optuna, ms':>11} {'ratio':>6} {'opening, s':>11}")
    with tempfile.TemporaryDirectory() as base:
        ours, theirs = Path(base) / "ours", Path(base) / "theirs"
        theirs.mkdir()
        url = f"sqlite:///{base}/ours.db" if args.storage == "sqlite" else None
        other_url = f"sqlite:///{base}/theirs.db" if url else None
        with open_study(ours, {}, space, ("maximize",), url):
            pass
        sampler = optuna.samplers.TPESampler(seed=0)
        optuna.create_study(study_name="theirs", storage=open_storage(theirs, other_url), direction="maximize")
        have = 0
        for size in args.sizes:
            fill(open_storage(ours, url), "ours" if url else "nas", space, have, size)
            fill(open_storage(theirs, other_url), "theirs", space, have, size)
            have = size + MEASURED
            started = time.perf_counter()
            with open_study(ours, {}, space, ("maximize",), url) as study:
                controller = CONTROLLERS["surrogate"](problem)
                for trial in study.evaluated:
                    controller.tell(trial)
                controller.ask(0)
                opening = time.perf_counter() - started
                taken = milliseconds(
                    lambda index, study=study, asked=controller, size=size: record(
                        study, asked, 2 * 10**6 + size + index
                    )
                )
            kept = open_storage(theirs, other_url)
            plain = optuna.load_study(study_name="theirs", storage=kept, sampler=sampler)
            usual = milliseconds(lambda index, plain=plain: tell(plain, space, index))
            print(f"{size:7d} {taken:9.1f} {usual:11.1f} {taken / usual:6.2f} {opening:11.2f}", flush=True)


if __name__ == "__main__":
    main()
