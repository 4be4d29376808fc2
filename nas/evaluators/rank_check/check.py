"""The rank check: compares how evaluators rank networks with reference trainings of these networks.

It also compares the reference with itself, one seed against another: this bounds the agreement that an evaluator can
reach. Parameters and MACs are always included as baselines, because they cost nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.evaluators import find_evaluator
from nas.evaluators.accuracy_table import read_accuracies
from nas.evaluators.base import Evaluator, EvaluatorContext
from nas.evaluators.executors.base import Task as Evaluation
from nas.evaluators.executors.base import evaluate_all
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.rank_check.plots import draw_agreement
from nas.evaluators.rank_check.rank_correlation import Agreement, agreement, ceiling, noise
from nas.evaluators.rank_check.records import save_records
from nas.evaluators.rank_check.reference_trainings import (
    ReferenceTrainings,
    stored_settings,
    stratified_networks,
    threads_per_job,
    train_reference,
)
from nas.evaluators.supernet.evaluator import find_folder
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.networks.block_schema import block_sources
from nas.networks.export import versions
from nas.spaces.automaton import block_names
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space
from nas.training.tasks.base import Task, for_task
from nas.training.tasks.image_datasets import check_images
from nas.training.tasks.image_record import ImageRecord, RunPlace, load_for_run
from nas.utils.files import check_writable, locked, write_json
from nas.utils.reporting import Reporter

BASELINES = ("params", "macs")
REFERENCE, RESULT, PICTURE = "reference.jsonl", "check.json", "check.png"
MIN_NETWORKS = 4


@dataclass(frozen=True)
class Check:
    """The settings of `nas check-proxy`.

    Attributes:
        space: A shipped search space or a YAML file.
        data: A named data set or an image folder; of detection, a COCO file or a folder.
        data_root: The folder of named data sets, or None for the default.
        metric: What ranks the reference trainings, by a name that the task knows.
        class_weights: How the trainings weigh the classes: a key of `CLASS_WEIGHTS`.
        fit: How images that are not square are fitted: "auto" or a key of `FITS`.
        flip: Whether training images are mirrored at random: "auto", "on" or "off".
        networks: The number of reference networks, one from each stratum of MACs.
        seeds: Trainings of each network, with the seeds 0, 1, ...
        evaluators: The evaluators to check; empty for all zero-cost scores.
        supernet: The folder of a trained supernet to check too.
        accuracies: A table of accuracies to check too.
        proxy_epochs: Epochs of a reference training; 0 for the default of the space.
        proxy_images: Images of a reference training; 0 for the default of the space.
        supernet_epochs: Epochs of a supernet training; 0 for the default of the space.
        jobs: How many trainings run at once.
        seed: Selects the networks.
        run: The folder of the check, or None for a default below runs/.
        task: What the networks learn: a key of `TASKS`.
    """

    space: str = "cifar"
    data: str = "digits"
    data_root: str | None = None
    metric: str = "accuracy"
    class_weights: str = "none"
    fit: str = "auto"
    flip: str = "auto"
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
    task: str = "classification"

    @property
    def folder(self) -> Path:
        """The folder of the reference trainings and the results."""
        return Path(self.run or f"runs/check-{Path(self.space).stem}-{Path(self.data).stem}")


@dataclass(frozen=True)
class Judged:
    """The result for one evaluator.

    Attributes:
        name: The name of the evaluator.
        agreement: The agreement of its ranking with the reference.
        scores: Its value for each network.
        processor_s: The processor time of one evaluation in seconds.
        settings: Its settings, or None for a training that is cut short, which no search uses as an evaluator.
    """

    name: str
    agreement: Agreement
    scores: list[float]
    processor_s: float
    settings: dict[str, Any] | None

    def to_dict(self, trained_s: float) -> dict[str, Any]:
        """Return the result for check.json.

        Args:
            trained_s: The processor time of a reference training in seconds. `cheaper` is its multiple of an
                evaluation's.
        """
        cheaper = trained_s / self.processor_s if self.processor_s else None
        return {**asdict(self), "agreement": self.agreement.to_dict(), "cheaper": cheaper}


def run_check(check: Check, reporter: Reporter) -> dict[str, Any]:
    """Score the networks, train the missing reference trainings, and write and return the contents of check.json.

    Raises:
        NasError: The settings are invalid (before anything is trained), or a training fails.
    """
    space, task, images = _load(check, reporter)
    archs, seeds = stratified_networks(space, check.networks, check.seed), tuple(range(check.seeds))
    if len(archs) < MIN_NETWORKS:
        rule = f"must have at least {MIN_NETWORKS} networks, has {len(archs)}"
        raise UsageError(rule, key="space", value=space.name)
    folder = check.folder
    check_images((task.data.train, task.data.validation), reporter, task.input.channels)
    check_writable(folder)
    trained = ProxyTraining(EvaluatorContext(task, space, folder, seed=check.seed, reporter=reporter))
    threads = threads_per_job(check.jobs)
    settings = {"space": space.key, "data": task.data.name, **trained.settings, "images": trained.digest}
    settings |= {"fit": task.fit, **images.identity}
    settings |= block_sources(block_names(space))
    reference = ReferenceTrainings.open(folder / REFERENCE, {**settings, "threads": threads})
    task.report_data(reporter)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        images.write(folder)
        evaluators = _make_evaluators(check, task, space, reporter)
        scored = {name: _score_networks(name, evaluator, archs, check.seed) for name, evaluator in evaluators}
        _train_missing(reference, archs, seeds, space, task, check, reporter)
        accuracies = reference.accuracies(archs, seeds)
        truth = [fmean(values) for values in accuracies]
        judged = [Judged(name, agreement(found[0], truth), *found) for name, found in scored.items()]
        judged += _judge_shorter_trainings(reference, archs, seeds, trained.settings)
        result = {**_result(reference, archs, accuracies, judged), "settings": {**asdict(check), **settings}}
        result |= {
            "space": space.key,
            "metric": task.metric,
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / RESULT, result)
        agreements = [(item.name, item.agreement.to_dict()) for item in judged]
        draw_agreement(accuracies, result["reference"]["agreement"], agreements, folder / PICTURE, task.metric)
    save_records(result)
    return {**result, "folder": str(folder)}


def _result(
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


def _load(check: Check, reporter: Reporter) -> tuple[Space, Task, ImageRecord]:
    """Check the settings, and return the space with its proxy settings, the task and the record of its images."""
    for name, minimum in (("networks", MIN_NETWORKS), ("seeds", 1), ("jobs", 1), ("seed", 0)):
        if getattr(check, name) < minimum:
            raise UsageError(f"must be at least {minimum}", key=name, value=getattr(check, name))
    for name in evaluator_names(check):
        find_evaluator(name)
    if "proxy_training" in evaluator_names(check):
        rule = "the reference itself is trained by it; its agreement between seeds is always reported"
        raise UsageError(rule, key="evaluator", value="proxy_training")
    space = load_space(check.space)
    proxy = Proxy(
        space.proxy.resolution, check.proxy_epochs or space.proxy.epochs, check.proxy_images or space.proxy.images
    )
    supernet = replace(space.supernet, epochs=check.supernet_epochs or space.supernet.epochs)
    place = RunPlace(check.folder, "--run", stored_settings(check.folder / REFERENCE))
    task, images = load_for_run(check, place, reporter)
    task = task.for_input(space.input)
    space = for_task(replace(space, proxy=proxy, supernet=supernet), task)
    images.check_supernet(check.supernet)
    if check.supernet:
        find_folder(Path(check.supernet).expanduser())
    if check.accuracies:
        read_accuracies(Path(check.accuracies).expanduser(), space)
    return space, task, images


def evaluator_names(check: Check) -> list[str]:
    """Return the evaluators to check: the requested ones (or all zero-cost scores), and always the baselines."""
    names = list(check.evaluators) or list(ZERO_COST)
    names += ["supernet"] if check.supernet else []
    names += ["tabular"] if check.accuracies else []
    return list(dict.fromkeys([*names, *BASELINES]))


def _train_missing(
    reference: ReferenceTrainings,
    archs: Sequence[Architecture],
    seeds: Sequence[int],
    space: Space,
    task: Task,
    check: Check,
    reporter: Reporter,
) -> None:
    pending = reference.missing(archs, seeds)
    if not pending:
        return
    with reporter.task("reference trainings", len(archs) * len(seeds)) as advance:
        advance(len(archs) * len(seeds) - len(pending))
        data, root, settings = check.data, check.data_root, task.settings
        for training in train_reference(pending, space, data, root, check.jobs, reporter, settings):
            reference.add(training)
            advance(1)


def _make_evaluators(check: Check, task: Task, space: Space, reporter: Reporter) -> Iterator[tuple[str, Evaluator]]:
    sources = {"supernet": check.supernet, "tabular": check.accuracies}
    for name in evaluator_names(check):
        source = Path(given).expanduser() if (given := sources.get(name)) else None
        yield name, find_evaluator(name)(EvaluatorContext(task, space, check.folder, source, check.seed, reporter))


def _score_networks(
    name: str, evaluator: Evaluator, archs: Sequence[Architecture], seed: int
) -> tuple[list[float], float, dict[str, Any]]:
    """Return the final value of each network, the median processor seconds of an evaluation, and the settings."""
    outcomes = []
    for outcome in evaluate_all(InProcessExecutor(evaluator), [Evaluation(arch, seed) for arch in archs]):
        if outcome.error:
            rule = f"cannot evaluate {outcome.task.architecture.digest} ({outcome.error})"
            raise UsageError(rule, key="evaluator", value=name)
        outcomes.append(outcome)
    seconds = median(outcome.processor_s for outcome in outcomes)
    return [outcome.curve[-1] for outcome in outcomes], seconds, evaluator.settings


def _judge_shorter_trainings(
    reference: ReferenceTrainings, archs: Sequence[Architecture], seeds: Sequence[int], settings: dict[str, Any]
) -> Iterator[Judged]:
    """Yield the result of training as an evaluator, at full length and stopped early.

    Compares the curves of the first seed with the final accuracies of the other seeds.
    """
    if len(seeds) < 2:
        return
    first = [reference.trainings[arch.digest, seeds[0]] for arch in archs]
    truth = [fmean(values) for values in reference.accuracies(archs, seeds[1:])]
    trained_s, length = fmean(training.processor_s for training in first), len(first[0].curve)
    for epochs in sorted({1 << power for power in range(length.bit_length())} | {length}):
        scores = [training.curve[epochs - 1] for training in first]
        name = f"training, {epochs} of {length} epochs"
        yield Judged(
            name, agreement(scores, truth), scores, trained_s * epochs / length, settings if epochs == length else None
        )
