"""The work of `nas train`: any one network trained fully, tested once and written as a folder that runs without us."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture, BlockSpec
from nas.devices.runtimes import make_runtime
from nas.errors import RunError, SpaceError, UsageError, WeightsError
from nas.networks.export import export_folder, exported_in, load_exported
from nas.networks.network import build, canonical
from nas.networks.pretrained import load_fitting
from nas.spaces.yaml_format import load_architecture
from nas.training.loop import Epoch, Watch, check_fit, pick_device, train
from nas.training.plots import draw_training
from nas.training.recipe import Recipe
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset, check_images
from nas.utils.files import check_same_settings, locked, read_json, write_json
from nas.utils.reporting import Reporter

SETTINGS, RESULT, CHECKPOINT = "settings.json", "result.json", "checkpoint.pt"


@dataclass(frozen=True)
class TrainJob:
    """The settings of `nas train`; 0 and None mean what the network and the data say.

    `network` is a network's name or YAML, a run folder, an exported folder, or an architecture's JSON. `teacher`
    is a run folder or an exported one, `init_from` too, or a file of weights, or "torchvision".
    """

    network: str
    recipe: Recipe
    data: str = "digits"
    data_root: str | None = None
    resolution: int = 0
    images: int = 0
    teacher: str | None = None
    init_from: str | None = None
    seed: int = 0
    runtime: str = "onnxruntime"
    out: str | None = None

    @property
    def folder(self) -> Path:
        """The folder to write: --out, or a name made of network and data."""
        if self.out:
            return Path(self.out)
        name, data = (re.sub(r"[^\w.]+", "_", Path(each).name) for each in (self.network, self.data))
        return Path("runs") / f"train-{re.sub(r'[.](ya?ml|json)$', '', name)}-{data}"


def run_train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train, test and export, and return what `result.json` holds; continue where a kill left it.

    Raises NasError for whatever is wrong in the input, before anything is trained.
    """
    for key, value in (("resolution", job.resolution), ("images", job.images), ("seed", job.seed)):
        if value < 0:
            raise UsageError(f"--{key}: must not be negative: {value}")
    make_runtime(job.runtime)
    arch = read_architecture(job.network)
    task = Classification.load(job.data, job.data_root)
    given = canonical(arch).head
    arch = canonical(for_classes(arch.at(job.resolution or arch.resolution), task.num_classes))
    if arch.head != given:
        reporter.say(f"the head is one for the {task.num_classes} classes of '{task.data.name}'")
    settings = _settings(job, arch, task)
    check_folder(job.folder, settings)
    if (done := _finished(job.folder)) is not None:
        reporter.say(f"{job.folder}: is finished; another --seed or --out trains anew")
        return done
    for split in (task.data.train, task.data.validation, task.data.test):
        check_images(split)
    model, begun = first_weights(arch, job)
    teacher = _teacher(job, task, arch.resolution)
    sets = task.train_set(arch.resolution, job.images), task.validation_set(arch.resolution)
    reporter.say(f"weights: {begun}")
    job.folder.mkdir(parents=True, exist_ok=True)
    with locked(job.folder):
        write_json(job.folder / SETTINGS, settings)
        curve, facts = _trained(job, model, teacher, task, sets, reporter)
        facts |= {"settings": settings, "started_from": begun, "curve": [asdict(epoch) for epoch in curve]}
        card = export_folder(arch, model, job.folder / "model", job.runtime, facts)
        title = f"{Path(job.network).name} on {task.data.name}: {facts['test_accuracy']:.1%} of the test images"
        draw_training(curve, title, job.folder / "curve.png")
        result = {
            "network": job.network,
            "model": str(job.folder / "model"),
            **{key: card[key] for key in ("architecture", "resolution", "params", "macs", "versions", "date")},
            **facts,
        }
        write_json(job.folder / RESULT, result)
    return result


def _trained(
    job: TrainJob,
    model: nn.Module,
    teacher: nn.Module | None,
    task: Classification,
    sets: tuple[ImageDataset, ImageDataset],
    reporter: Reporter,
) -> tuple[list[Epoch], dict[str, Any]]:
    """Train and test, and return the curve and what the card says of it."""
    epochs, (train_set, validation) = job.recipe.epochs, sets
    curve: dict[int, Epoch] = {}

    def told(epoch: Epoch) -> None:
        curve[epoch.number] = epoch
        reporter.say(
            f"epoch {epoch.number + 1}/{epochs}: loss {epoch.loss:.4f}, {epoch.accuracy:.1%} of the validation images, "
            f"{epoch.images_per_s:.0f} images/s"
        )

    with reporter.task(f"training on {len(train_set)} images", epochs * len(train_set)) as advance:
        watch, path = Watch(advance, told, reporter.warn), job.folder / CHECKPOINT
        if path.exists():
            reporter.say(f"continues from {path}")
        for _ in train(model, task, *sets, job.recipe, job.seed, teacher=teacher, checkpoint=path, watch=watch):
            pass
    test_set = task.test_set(validation.resolution)
    with reporter.task(f"testing once on {len(test_set)} images", 1) as advance:
        accuracy = task.accuracy(model, test_set, pick_device())
        advance(1)
    return [curve[number] for number in sorted(curve)], {
        "test_accuracy": accuracy,
        "test_images": len(test_set),
        "validation_accuracy": curve[epochs - 1].accuracy,
        "validation_images": len(validation),
        "train_images": len(train_set),
        "data": {"name": task.data.name, "classes": list(task.data.classes)},
        "trained_on": str(pick_device()),
        "seed": job.seed,
    }


def read_architecture(name: str) -> Architecture:
    """Return the architecture of a network's name or YAML, a run or exported folder, or a JSON file.

    A JSON file holds what `Architecture.to_dict` gave, or is the card of an exported folder. Raises NasError.
    """
    path = Path(name)
    if path.is_dir():
        return read_exported(path, "")[0]
    if path.suffix != ".json":
        return load_architecture(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpaceError(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpaceError(f"{name}: not JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise SpaceError(f"{name}: not an architecture: it must be a mapping: {str(data)[:60]}")
    return Architecture.from_dict(data.get("blocks", data), name)


def read_exported(folder: Path, flag: str) -> tuple[Architecture, nn.Module, dict[str, Any]]:
    """Return architecture, network and card of a run folder's winner or an exported folder. Raises RunError."""
    try:
        return load_exported(exported_in(folder))
    except RunError as error:
        raise RunError(f"{flag}: {error}" if flag else str(error)) from error


def for_classes(arch: Architecture, num_classes: int) -> Architecture:
    """Return the same network with a head for `num_classes` classes."""
    return replace(arch, head=BlockSpec.of(arch.head.op, {**arch.head.kwargs, "num_classes": num_classes}))


def first_weights(arch: Architecture, job: TrainJob) -> tuple[nn.Module, str]:
    """Return the network with the weights that the training starts from, and what they are.

    Raises WeightsError or RunError where --init-from has none that fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        model = build(arch)
    if job.init_from is None:
        return model, f"fresh, of seed {job.seed}"
    source = Path(job.init_from)
    if source.is_dir():
        source = exported_in(source) / "model.safetensors"
    try:
        return model, load_fitting(model, str(source), Path(job.network).name)
    except WeightsError as error:
        raise WeightsError(f"--init-from: {error}") from error


def _teacher(job: TrainJob, task: Classification, resolution: int) -> nn.Module | None:
    if job.teacher is None:
        return None
    teacher = read_exported(Path(job.teacher), "--teacher")[1]
    few = task.validation_set(resolution, 2 * task.num_classes)
    check_fit(teacher, task, few, torch.device("cpu"), f"the teacher in '{job.teacher}'")
    return teacher


def check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError where `folder` holds another training or something else; writes nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: not a folder")
    path = folder / SETTINGS
    if path.is_file():
        check_same_settings(folder, read_json(path), settings, "--out")
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunError(f"{folder}: is not a folder of 'nas train': it has files, but no {SETTINGS}; give another --out")


def _settings(job: TrainJob, arch: Architecture, task: Classification) -> dict[str, Any]:
    """Return what makes this training another than the next."""
    return {
        "architecture": arch.digest,
        "data": task.data.name,
        "classes": task.num_classes,
        "resolution": arch.resolution,
        "images": job.images,
        "teacher": job.teacher,
        "init_from": job.init_from,
        "seed": job.seed,
        "runtime": job.runtime,
        **job.recipe.to_dict(),
    }


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    return read_json(path) if path.is_file() and (folder / "model" / "card.json").is_file() else None
