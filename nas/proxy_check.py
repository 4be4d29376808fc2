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
from statistics import fmean
from typing import Any

from nas.agreement import Agreement, agreement, ceiling, noise
from nas.architecture import Architecture
from nas.errors import UsageError
from nas.evaluators import Evaluator, find_evaluator
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.setup import Setup
from nas.export import versions
from nas.files import write_json
from nas.picture_agreement import draw_agreement
from nas.progress import Reporter
from nas.reference import Reference, stratified_networks, train_reference
from nas.space import Proxy, Space
from nas.space_file import load_space
from nas.tasks.classification import Classification
from nas.training import TrainingError
from nas.trust import remember

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
    """An evaluator's agreement with the reference; processor seconds of one evaluation, None where it cost none."""

    name: str
    agreement: Agreement
    scores: list[float]
    processor_s: float | None = None
    about: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {**asdict(self), "agreement": self.agreement.to_dict()}


def run_check(check: Check, reporter: Reporter) -> dict[str, Any]:
    """Train what is missing of the reference, judge the evaluators, and return what `check.json` holds.

    Raises NasError for whatever is wrong in the input, before anything is trained.
    """
    space, task = _checked(check)
    folder = check.folder
    evaluators = _made(check, task, space, reporter)
    settings = {"space": space.key, "data": task.data.name, **ProxyTraining(Setup(task, space, folder)).settings}
    reference = Reference.open(folder / REFERENCE, settings)
    archs, seeds = stratified_networks(space, check.networks, check.seed), tuple(range(check.seeds))
    _train(reference, archs, seeds, space, check, reporter)
    accuracies = reference.accuracies(archs, seeds)
    truth = [fmean(values) for values in accuracies]
    repeats = ceiling(accuracies) if check.seeds > 1 else None
    judged = [_judge(name, evaluator, archs, truth, check.seed) for name, evaluator in evaluators.items()]
    judged += _shorter(reference, archs, seeds)
    trained_s = fmean(training.processor_s for training in reference.trainings.values())
    result: dict[str, Any] = {
        "space": space.key,
        "networks": len(archs),
        "seeds": check.seeds,
        "reference": {
            "agreement": repeats.to_dict() if repeats else None,
            "noise": noise(accuracies) if repeats else None,
            "lowest": min(truth),
            "highest": max(truth),
            "processor_s": trained_s,
            "accuracies": {arch.digest: values for arch, values in zip(archs, accuracies, strict=True)},
        },
        "evaluators": [
            {**item.to_dict(), "cheaper": trained_s / item.processor_s if item.processor_s else None} for item in judged
        ],
        "settings": {**asdict(check), **settings},
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


def _checked(check: Check) -> tuple[Space, Classification]:
    for name, least in (("networks", LEAST_NETWORKS), ("seeds", 1), ("jobs", 1), ("seed", 0)):
        if getattr(check, name) < least:
            raise UsageError(f"--{name}: must be at least {least}: {getattr(check, name)}")
    for name in names_of(check):
        find_evaluator(name)
    space = load_space(check.space)
    proxy = Proxy(
        space.proxy.resolution, check.proxy_epochs or space.proxy.epochs, check.proxy_images or space.proxy.images
    )
    supernet = replace(space.supernet, epochs=check.supernet_epochs or space.supernet.epochs)
    task = Classification.load(check.data, check.data_root)
    return replace(space, proxy=proxy, supernet=supernet).for_classes(task.num_classes), task


def names_of(check: Check) -> list[str]:
    """Return the evaluators to judge: those asked for, or all that cost no training, and always the baselines."""
    from nas.zero_cost import ZERO_COST

    asked = list(check.evaluators) or list(ZERO_COST)
    asked += ["supernet"] if check.supernet else []
    asked += ["tabular"] if check.accuracies else []
    return list(dict.fromkeys([*asked, *BASELINES]))


def _train(
    reference: Reference,
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
        for training in train_reference(pending, space, check.data, check.data_root, min(check.jobs, len(pending))):
            reference.add(training)
            advance(1)


def _made(check: Check, task: Classification, space: Space, reporter: Reporter) -> dict[str, Evaluator]:
    """Return the evaluators, ready: what is wrong with one is said before the reference is trained."""
    sources = {"supernet": check.supernet, "tabular": check.accuracies}
    made = {}
    for name in names_of(check):
        source = Path(given) if (given := sources.get(name)) else None
        made[name] = find_evaluator(name)(Setup(task, space, check.folder, source, check.seed, reporter))
    return made


def _judge(name: str, evaluator: Evaluator, archs: Sequence[Architecture], truth: Sequence[float], seed: int) -> Judged:
    try:
        scores, seconds = _scores(evaluator, archs, seed)
    except TrainingError as error:
        raise TrainingError(f"{name}: {error}") from error
    return Judged(name, agreement(scores, truth), scores, seconds)


def _scores(evaluator: Evaluator, archs: Sequence[Architecture], seed: int) -> tuple[list[float], float]:
    """Return each network's last value, and the median processor seconds of an evaluation."""
    scores, seconds = [], []
    for arch in archs:
        started = time.process_time()
        *_, value = evaluator.evaluate(arch, seed)
        seconds.append(time.process_time() - started)
        scores.append(float(value))
    return scores, sorted(seconds)[len(seconds) // 2]


def _shorter(reference: Reference, archs: Sequence[Architecture], seeds: Sequence[int]) -> Iterator[Judged]:
    """Judge trainings that were stopped early: the curves of one seed against the last accuracies of the others."""
    if len(seeds) < 2:
        return
    curves = [reference.trainings[arch.digest, seeds[0]].curve for arch in archs]
    truth = [fmean(values) for values in reference.accuracies(archs, seeds[1:])]
    whole = fmean(reference.trainings[arch.digest, seeds[0]].processor_s for arch in archs)
    epochs, length = 1, len(curves[0])
    while epochs <= length:
        scores = [curve[epochs - 1] for curve in curves]
        name = f"training, {epochs} of {length} epochs"
        yield Judged(name, agreement(scores, truth), scores, whole * epochs / length, "one seed against the others")
        epochs *= 2
