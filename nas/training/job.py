"""The job of `nas train`: trains one network fully, tests it once, and exports it as a folder that runs without nas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture
from nas.devices.runtimes import make_runtime
from nas.errors import ExportError, RunError, SpaceError, UsageError, located
from nas.networks.block_check import check_blocks
from nas.networks.block_schema import block_sources, is_detector_head
from nas.networks.export import export_folder
from nas.networks.exported_folder import CARD, check_origin, exported_fit, exported_in
from nas.networks.network import build, canonical, trace
from nas.spaces.yaml_format import load_architecture
from nas.training.deployed_network import calibration_for, check_images_for, check_precision, deployed_reports
from nas.training.exported_metric import exported_facts
from nas.training.initial_weights import initial_weights
from nas.training.loop import Epoch, Watch, check_fit, pick_device, train
from nas.training.plots import draw_training
from nas.training.pretrained_network import read_exported
from nas.training.recipe import ADDED, Recipe, suited, with_buildable_sizes
from nas.training.stuck import advice, training_problem
from nas.training.tasks.base import Report, Task, TaskDataset, for_task
from nas.training.tasks.image_datasets import check_images
from nas.training.tasks.image_record import RunPlace, load_for_run
from nas.training.tasks.metrics import named, spell
from nas.utils.files import check_writable, locked, read_json, write_json
from nas.utils.reporting import Reporter
from nas.utils.run_identity import check_same_settings, content_digest
from nas.utils.units import parse_resolutions

SETTINGS, RESULT, CHECKPOINT = "settings.json", "result.json", "checkpoint.pt"


@dataclass(frozen=True)
class TrainJob:
    """The settings of `nas train`.

    Attributes:
        network: A network's name, a YAML file, a run folder, an exported folder, or a JSON file of an architecture.
        recipe: How to train.
        data: A named data set or an image folder.
        data_root: The folder of the named data sets; None: the user's cache.
        fit: How images that are not square are fitted: a key of `FITS`, or "auto".
        flip: Whether training images are mirrored at random: "auto", "on" or "off".
        resolution: Input size, as 96 or "192x256"; 0: the network's.
        images: Training images, a stratified part; 0: all of them.
        task: What is learned: a key of `TASKS`.
        metric: What is reported beside the accuracy: a key of `METRICS`.
        class_weights: How the loss weighs the classes: a key of `CLASS_WEIGHTS`.
        teacher: A run folder or an exported folder to distill from.
        init_from: Initial weights: a run folder, an exported folder, a weights file, or "torchvision"; None: random.
        seed: The seed of the initial weights and the training.
        runtime: The runtime to export for, in addition to ONNX.
        out: The output folder; None: a name made from network and data.
        adapts: Whether a network without normalization layers gets a lower learning rate than the recipe's.
        adapts_crops: Whether images that are no photographs get no random resized crops.
        adapts_batch_size: Whether a step has as many images as suit the task.
        former: The recipe that an earlier version used for the same command; None if there is none. A folder that such
            a version wrote continues with it.
    """

    network: str
    recipe: Recipe
    data: str = "digits"
    data_root: str | None = None
    fit: str = "auto"
    flip: str = "auto"
    resolution: int | str = 0
    images: int = 0
    task: str = "classification"
    metric: str = "accuracy"
    class_weights: str = "none"
    teacher: str | None = None
    init_from: str | None = None
    seed: int = 0
    runtime: str = "onnxruntime"
    out: str | None = None
    adapts: bool = False
    adapts_crops: bool = False
    adapts_batch_size: bool = False
    former: Recipe | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        if self.out:
            return Path(self.out).expanduser()
        name, data = (re.sub(r"[^\w.]+", "_", Path(each).name) for each in (self.network, self.data))
        return Path("runs") / f"train-{re.sub(r'[.](ya?ml|json)$', '', name)}-{data}"


def run_train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train, test and export a network, and return the content of `result.json`. Resumes an interrupted training.

    Raises NasError for bad input before the training starts.
    """
    for key, value in (("images", job.images), ("seed", job.seed)):
        if value < 0:
            raise UsageError("must not be negative", key=key, value=value)
    make_runtime(job.runtime)
    check_precision(job.task, job.runtime)
    arch = _at_size(read_architecture(job.network), job.resolution)
    stored = read_json(job.folder / SETTINGS) if (job.folder / SETTINGS).is_file() else None
    place = RunPlace(job.folder, "--out", trained_on(job) if stored is None else stored)
    task, images = load_for_run(job, place, reporter)
    task.check_part(job.images, "images")
    check_images_for(task, job.runtime)
    with located(job.network):
        task = task.for_input(arch.input)
    arch = _with_classes(job, arch, task, reporter)
    job = _adapted(_continued(job, stored, reporter), arch, task, reporter)
    settings = {**_settings(job, arch, task), **images.identity}
    check_folder(job.folder, settings)
    if (done := _finished(job.folder)) is not None:
        reporter.say(f"{job.folder}: finished; give another --seed or --out for a new training")
        return done
    check_writable(job.folder)
    _announce(job, task, arch, reporter)
    model, started_from = initial_weights(arch, job.init_from, Path(job.network).name, job.seed)
    teacher = _teacher(job, task, arch.resolution)
    sets = task.train_set(arch.resolution, job.images, reporter), task.validation_set(arch.resolution, 0, reporter)
    task.report_network(model, sets[0], reporter)
    reporter.say(f"initial weights: {started_from}")
    task.augmented(sets[0], job.recipe)  # refuses what the images do not allow before anything is written
    job.folder.mkdir(parents=True, exist_ok=True)
    with locked(job.folder):
        write_json(job.folder / SETTINGS, settings)
        images.write(job.folder)
        curve, report, facts = _train_and_test(job, model, teacher, task, sets, reporter)
        facts |= {"settings": {**settings, "fit": task.fit}, "started_from": started_from}
        facts["curve"] = [epoch.to_dict() for epoch in curve]
        card = _export(job, arch, model, facts, task)
        facts |= exported_facts(task, job.folder / "model", arch, job.runtime, report, reporter)
        _draw(job, task, curve, report)
        result = {
            "network": job.network,
            "model": str(job.folder / "model"),
            **{key: card[key] for key in ("architecture", "resolution", "params", "macs", "versions", "date")},
            **facts,
        }
        write_json(job.folder / RESULT, result)
    return result


def _at_size(arch: Architecture, size: int | str) -> Architecture:
    """Return the architecture at an input size; 0 is its own. Raises UsageError for several sizes or none."""
    sizes = () if str(size) == "0" else parse_resolutions(str(size))
    if len(sizes) > 1:
        raise UsageError("must be one size", key="resolution", value=size)
    return arch.sized(sizes[0]) if sizes else arch


def _with_classes(job: TrainJob, arch: Architecture, task: Task, reporter: Reporter) -> Architecture:
    """Return the architecture with a head for the classes of the data. Raises SpaceError."""
    with located(job.network):
        given = canonical(arch).head
        arch = canonical(for_task(arch, task))
    if arch.head != given:
        reporter.say(f"the head is changed to the {task.num_classes} classes of '{task.data.name}'")
    return arch


def _announce(job: TrainJob, task: Task, arch: Architecture, reporter: Reporter) -> None:
    """Report the data and the augmentation, and check that images and blocks are usable. Raises NasError."""
    task.report_data(reporter)
    reporter.say(f"augmentation: {task.describe_augmentation(job.recipe)}")
    check_images((task.data.train, task.data.validation, task.data.test), reporter, task.input.channels)
    check_blocks(trace(arch))


def _draw(job: TrainJob, task: Task, curve: list[Epoch], report: Report) -> None:
    title = f"{Path(job.network).name} on {task.data.name}: test {spell(task.metric)} {report.metric_value:.1%}"
    draw_training(curve, title, job.folder / "curve.png", task.metric)
    report.draw(title, job.folder / report.picture)


def _export(job: TrainJob, arch: Architecture, model: nn.Module, facts: dict[str, Any], task: Task) -> dict[str, Any]:
    """Export the network and return its card. If that fails, the facts are kept in result.json."""
    try:
        images = calibration_for(job.runtime, task, arch.resolution)
        place = job.folder / "model"
        return export_folder(arch, model, place, job.runtime, facts, task.fit, keep_failed=True, images=images)
    except ExportError as error:
        unfinished = {"network": job.network, "architecture": arch.digest, **facts, "export_error": str(error)}
        write_json(job.folder / RESULT, unfinished)
        raise


def _train_and_test(
    job: TrainJob,
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    sets: tuple[TaskDataset, TaskDataset],
    reporter: Reporter,
) -> tuple[list[Epoch], Report, dict[str, Any]]:
    """Train and test, and return the curve, the test and the facts for the result and the exported card."""
    epochs, (train_set, validation) = job.recipe.epochs, sets
    curve: dict[int, Epoch] = {}

    def report(epoch: Epoch) -> None:
        curve[epoch.number] = epoch
        reporter.say(
            f"epoch {epoch.number + 1}/{epochs}: loss {epoch.loss:.4f}, validation {spell(task.metric)} "
            f"{epoch.value:.1%}, {epoch.images_per_s:.0f} images/s"
        )

    with reporter.task(f"training on {len(train_set)} images", epochs * len(train_set)) as advance:
        watch, path = Watch(advance, report, reporter.warn), job.folder / CHECKPOINT
        if path.exists():
            reporter.say(f"resuming from {path}")
        for _ in train(model, task, *sets, job.recipe, job.seed, teacher=teacher, checkpoint=path, watch=watch):
            pass
    test_set = task.test_set(validation.resolution, reporter)
    with reporter.task(f"testing on {len(test_set)} images", 1) as advance:
        tested = task.evaluate(model, test_set, pick_device())
        float32: dict[str, Any] = {}
        last = curve[epochs - 1]
        validated = named("validation", last.accuracy, task.metric, last.value)
        if deployed := deployed_reports(task, model, job.runtime, test_set.resolution, [validation, test_set]):
            before = named("test", tested.accuracy, task.metric, tested.metric_value)
            float32 = {"float32": {**before, **validated}}
            validated = named("validation", deployed[0].accuracy, task.metric, deployed[0].metric_value)
            tested = deployed[1]
        advance(1)
    tested.warn(reporter)
    finished = [curve[number] for number in sorted(curve)]
    problem = training_problem(model, task, validation, [] if teacher else finished, pick_device())
    if problem:
        reporter.warn(f"{problem}; {advice(task)}")
    facts = {
        **({"training_problem": problem} if problem else {}),
        **tested.to_dict(),
        **float32,
        **validated,
        "validation_images": len(validation),
        "train_images": len(train_set),
        "data": {"name": task.data.name, "classes": list(task.data.classes)},
        "trained_on": str(pick_device()),
        "seed": job.seed,
    }
    return finished, tested, facts


def _continued(job: TrainJob, stored: Mapping[str, Any] | None, reporter: Reporter) -> TrainJob:
    """Return the job with the recipe of earlier versions if the folder was written with it."""
    if stored is None or job.former is None or not _has_recipe(stored, job.former, job.adapts):
        return job
    reporter.say(f"{job.folder}: continues with the recipe that it began with, now --recipe onecycle")
    return replace(job, recipe=job.former, adapts_crops=False)


def _has_recipe(stored: Mapping[str, Any], recipe: Recipe, adapts: bool) -> bool:
    """Return whether stored settings hold a recipe, with any learning rate if the job adapts that to the network."""
    expected = {**ADDED, **recipe.to_dict()}
    adapted = {"learning_rate"} if adapts else set()
    return all(stored.get(key, ADDED.get(key)) == expected[key] for key in expected.keys() - adapted)


def _adapted(job: TrainJob, arch: Architecture, task: Task, reporter: Reporter) -> TrainJob:
    """Return the job with a recipe that suits the images and the network, if the job adapts."""
    if job.adapts_crops:
        job = replace(job, recipe=task.suited(job.recipe))
    if job.adapts_batch_size:
        job = replace(job, recipe=replace(job.recipe, batch_size=task.batch_size))
    recipe = with_buildable_sizes(job.recipe, arch)
    if recipe != job.recipe:
        reporter.say(f"all epochs train at {arch.input_size} px: the network cannot be built at lower resolutions")
        job = replace(job, recipe=recipe)
    if not job.adapts:
        return job
    with torch.device("meta"):
        recipe = suited(job.recipe, build(arch))
    if recipe != job.recipe:
        change = f"{recipe.learning_rate:g} instead of {job.recipe.learning_rate:g}"
        reporter.say(f"the network has no normalization layers: learning rate {change}; --learning-rate sets another")
    return replace(job, recipe=recipe)


def read_architecture(name: str) -> Architecture:
    """Return the architecture of a network's name, a YAML file, a run folder, an exported folder, or a JSON file.

    A JSON file is the card of an exported folder or the output of `Architecture.to_dict`. Raises NasError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return read_exported(path, "")[0]
    if path.suffix != ".json":
        return load_architecture(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}", where=name) from error
    except ValueError as error:
        raise SpaceError(f"not JSON: {error}", where=name) from error
    if not isinstance(data, Mapping):
        raise SpaceError(f"not an architecture: must be a mapping: {str(data)[:60]}", where=name)
    stages = data.get("stages")
    if isinstance(stages, list) and any(isinstance(stage, Mapping) for stage in stages):
        return load_architecture(name)  # in the format of search spaces, written as JSON
    arch = Architecture.from_dict(data.get("blocks", data), name)
    if (path.parent / CARD).is_file():
        check_origin(arch, path.parent)
    return arch


def _teacher(job: TrainJob, task: Task, resolution: int) -> nn.Module | None:
    if job.teacher is None:
        return None
    if not task.can_distill:
        rule = f"the task of '{task.data.name}' cannot learn from the outputs of a teacher"
        raise UsageError(rule, key="teacher", value=job.teacher)
    arch, teacher, _ = read_exported(Path(job.teacher).expanduser(), "--teacher")
    with located(f"--teacher {job.teacher}"):
        task.check_head(arch.head.op)
    some_images = task.validation_set(resolution, 2 * task.num_classes)
    check_fit(teacher, task, some_images, torch.device("cpu"), f"the teacher in '{job.teacher}'")
    return teacher


def check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError if `folder` holds another training or other files. Writes nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError("not a folder", where=folder)
    path = folder / SETTINGS
    if path.is_file():
        check_same_settings(folder, read_json(path), settings, "--out")
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        rule = f"not a folder of `nas train`: it has files, but no {SETTINGS}; give another --out"
        raise RunError(rule, where=folder)


def _settings(job: TrainJob, arch: Architecture, task: Task) -> dict[str, Any]:
    """Return the settings that identify a training."""
    return {
        "architecture": arch.digest,
        "data": task.data.name,
        "classes": task.num_classes,
        "resolution": arch.input_size,
        "images": job.images,
        "teacher": job.teacher,
        "init_from": job.init_from,
        **_weights_digests(job),
        **block_sources(spec.op for spec in arch.blocks()),
        "seed": job.seed,
        "runtime": job.runtime,
        **task.settings,
        **job.recipe.to_dict(),
    }


def trained_on(job: TrainJob) -> dict[str, str] | None:
    """Return the fit of the run or exported folder whose network is trained, if that had the same data; else None.

    Networks that the task cannot train have none: their fit may be one that the task does not know.
    """
    if not Path(job.network).is_dir():
        return None
    arch, _, card = read_exported(Path(job.network), "")
    data = card.get("data")
    same = isinstance(data, Mapping) and data.get("name") == Path(job.data).expanduser().resolve().name
    same = same and is_detector_head(arch.head.op) == (job.task == "detection")
    return {"fit": exported_fit(card)} if same else None


def _weights_digests(job: TrainJob) -> dict[str, Any]:
    """Return the digests of the files of weights that the training starts from or distills from."""
    found = {}
    for key, name in (("teacher", job.teacher), ("init_from", job.init_from)):
        path = Path(name or "").expanduser()
        if name and path.is_dir():
            path = exported_in(path) / "model.safetensors"
        if name and path.is_file():
            found[f"{key}_digest"] = content_digest([path])
    return found


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    return read_json(path) if path.is_file() and (folder / "model" / "card.json").is_file() else None
