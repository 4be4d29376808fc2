"""Is an evaluator any good? A reference of real trainings, and how well each evaluator ranks it.

First comes how well the reference repeats itself: against trainings that disagree with each other no evaluator means
anything. Parameters and MACs are always among the judged, for they cost nothing.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.evaluators import Evaluator, find_evaluator
from nas.evaluators.accuracy_table import read_accuracies
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.executors import Task, evaluate_all
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.rank_check.plots import draw_agreement
from nas.evaluators.rank_check.rank_correlation import Agreement, agreement, ceiling, noise
from nas.evaluators.rank_check.records import remember
from nas.evaluators.rank_check.reference_trainings import (
    ReferenceTrainings,
    stratified_networks,
    threads_of,
    train_reference,
)
from nas.evaluators.supernet.evaluator import find_folder
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.networks.export import versions
from nas.spaces.search_space import Proxy, Space
from nas.spaces.yaml_format import load_space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.utils.files import locked, write_json
from nas.utils.reporting import Reporter

BASELINES = ("params", "macs")
REFERENCE, RESULT, PICTURE = "reference.jsonl", "check.json", "check.png"
LEAST_NETWORKS = 4


@dataclass(frozen=True)
class Check:
    """The settings of `nas check-proxy`; 0 is what the space says."""

    space: str = "cifar"
    data: str = "digits"
    data_root: str | None = None
    networks: int = 16
    seeds: int = 2
    evaluators: tuple[str, ...] = ()
    supernet: str | None = None
    accuracies: str | None = None
    proxy_epochs: int = 0
    proxy_images: int = 0
    supernet_epochs: int = 0
    jobs: int = 1
    seed: int = 0
    run: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the reference and the figures."""
        return Path(self.run or f"runs/check-{Path(self.space).stem}-{Path(self.data).stem}")


@dataclass(frozen=True)
class Judged:
    """An evaluator's agreement with the reference, and the processor seconds of one evaluation.

    `settings` are the evaluator's; None for a training that was cut short, which no search uses as it is.
    """

    name: str
    agreement: Agreement
    scores: list[float]
    processor_s: float
    settings: dict[str, Any] | None

    def to_dict(self, trained_s: float) -> dict[str, Any]:
        """Return the figures by name; `cheaper` is how many evaluations a training costs."""
        cheaper = trained_s / self.processor_s if self.processor_s else None
        return {**asdict(self), "agreement": self.agreement.to_dict(), "cheaper": cheaper}


def run_check(check: Check, reporter: Reporter) -> dict[str, Any]:
    """Score the networks, train what is missing of the reference, and return what `check.json` holds.

    Raises NasError for whatever is wrong in the input, before anything is trained.
    """
    space, task = _checked(check)
    archs, seeds = stratified_networks(space, check.networks, check.seed), tuple(range(check.seeds))
    if len(archs) < LEAST_NETWORKS:
        raise UsageError(f"--space: '{space.name}' has {len(archs)} networks to judge by, at least {LEAST_NETWORKS}")
    folder = check.folder
    trained = ProxyTraining(EvaluatorContext(task, space, folder, seed=check.seed, reporter=reporter))
    threads = threads_of(check.jobs)
    settings = {"space": space.key, "data": task.data.name, **trained.settings, "images": trained.digest}
    reference = ReferenceTrainings.open(folder / REFERENCE, {**settings, "threads": threads})
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        scored = {name: _scores(name, evaluator, archs, check.seed) for name, evaluator in
                  _made(check, task, space, reporter)}  # fmt: skip
        _train(reference, archs, seeds, space, check, reporter)
        accuracies = reference.accuracies(archs, seeds)
        truth = [fmean(values) for values in accuracies]
        judged = [Judged(name, agreement(found[0], truth), *found) for name, found in scored.items()]
        judged += _shorter(reference, archs, seeds, trained.settings)
        result = {**_figures(reference, archs, accuracies, judged), "settings": {**asdict(check), **settings}}
        result |= {
            "space": space.key,
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / RESULT, result)
        draw_agreement(
            accuracies, result["reference"]["agreement"],
            [(item.name, item.agreement.to_dict()) for item in judged], folder / PICTURE,
        )  # fmt: skip
    remember(result)
    return {**result, "folder": str(folder)}


def _figures(
    reference: ReferenceTrainings,
    archs: Sequence[Architecture],
    accuracies: Sequence[Sequence[float]],
    judged: Sequence[Judged],
) -> dict[str, Any]:
    repeats = ceiling(accuracies) if len(accuracies[0]) > 1 else None
    truth = [fmean(values) for values in accuracies]
    trained_s = fmean(training.processor_s for training in reference.trainings.values())
    return {
        "networks": len(archs),
        "seeds": len(accuracies[0]),
        "reference": {
            "agreement": repeats.to_dict() if repeats else None,
            "noise": noise(accuracies) if repeats else None,
            "lowest": min(truth),
            "highest": max(truth),
            "processor_s": trained_s,
            "accuracies": {arch.digest: list(values) for arch, values in zip(archs, accuracies, strict=True)},
        },
        "evaluators": [item.to_dict(trained_s) for item in judged],
    }


def _checked(check: Check) -> tuple[Space, Classification]:
    for name, least in (("networks", LEAST_NETWORKS), ("seeds", 1), ("jobs", 1), ("seed", 0)):
        if getattr(check, name) < least:
            raise UsageError(f"--{name}: must be at least {least}: {getattr(check, name)}")
    for name in names_of(check):
        find_evaluator(name)
    if "proxy_training" in names_of(check):
        raise UsageError("--evaluator: proxy_training is what the reference is made by, and judged always")
    space = load_space(check.space)
    proxy = Proxy(
        space.proxy.resolution, check.proxy_epochs or space.proxy.epochs, check.proxy_images or space.proxy.images
    )
    supernet = replace(space.supernet, epochs=check.supernet_epochs or space.supernet.epochs)
    task = Classification.load(check.data, check.data_root)
    space = replace(space, proxy=proxy, supernet=supernet).for_classes(task.num_classes)
    if check.supernet:
        find_folder(Path(check.supernet))
    if check.accuracies:
        read_accuracies(Path(check.accuracies), space)
    return space, task


def names_of(check: Check) -> list[str]:
    """Return the evaluators to judge: those asked for, or all that cost no training, and always the baselines."""
    asked = list(check.evaluators) or list(ZERO_COST)
    asked += ["supernet"] if check.supernet else []
    asked += ["tabular"] if check.accuracies else []
    return list(dict.fromkeys([*asked, *BASELINES]))


def _train(
    reference: ReferenceTrainings,
    archs: Sequence[Architecture],
    seeds: Sequence[int],
    space: Space,
    check: Check,
    reporter: Reporter,
) -> None:
    pending = reference.missing(archs, seeds)
    if not pending:
        return
    with reporter.task("training the reference", len(archs) * len(seeds)) as advance:
        advance(len(archs) * len(seeds) - len(pending))
        for training in train_reference(pending, space, check.data, check.data_root, check.jobs):
            reference.add(training)
            advance(1)


def _made(check: Check, task: Classification, space: Space, reporter: Reporter) -> Iterator[tuple[str, Evaluator]]:
    sources = {"supernet": check.supernet, "tabular": check.accuracies}
    for name in names_of(check):
        source = Path(given) if (given := sources.get(name)) else None
        yield name, find_evaluator(name)(EvaluatorContext(task, space, check.folder, source, check.seed, reporter))


def _scores(
    name: str, evaluator: Evaluator, archs: Sequence[Architecture], seed: int
) -> tuple[list[float], float, dict[str, Any]]:
    """Return each network's last value, the median processor seconds of an evaluation, and the settings."""
    scores, seconds = [], []
    for arch in archs:
        started = time.process_time()
        (outcome,) = evaluate_all(InProcessExecutor(evaluator), [Task(arch, seed)])
        if outcome.error:
            raise TrainingError(f"--evaluator {name}: {arch.digest}: {outcome.error}")
        seconds.append(time.process_time() - started)
        scores.append(outcome.curve[-1])
    return scores, median(seconds), evaluator.settings


def _shorter(
    reference: ReferenceTrainings, archs: Sequence[Architecture], seeds: Sequence[int], settings: dict[str, Any]
) -> Iterator[Judged]:
    """Judge trainings, whole and stopped early: the curves of one seed against the last accuracies of the others."""
    if len(seeds) < 2:
        return
    first = [reference.trainings[arch.digest, seeds[0]] for arch in archs]
    truth = [fmean(values) for values in reference.accuracies(archs, seeds[1:])]
    whole, length = fmean(training.processor_s for training in first), len(first[0].curve)
    for epochs in sorted({1 << power for power in range(length.bit_length())} | {length}):
        scores = [training.curve[epochs - 1] for training in first]
        name = f"training, {epochs} of {length} epochs"
        used = settings if epochs == length else None
        yield Judged(name, agreement(scores, truth), scores, whole * epochs / length, used)
