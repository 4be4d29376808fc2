"""`nas train`: train one network fully."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.utils.reporting import Reporter

HELP = "train a network, a run's winner or an architecture fully, and write a folder for `nas export`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags. Flags of the recipe have no default here, because a named recipe sets it."""
    text: dict[str, Any] = {"metavar": "NAME"}
    folder: dict[str, Any] = {"metavar": "DIR"}
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    real: dict[str, Any] = {"type": float, "metavar": "X"}
    parser.add_argument(
        "network",
        metavar="ARCH",
        help="network name, YAML file, run folder, exported folder, or JSON file of an architecture",
    )
    job: dict[str, tuple[dict[str, Any], str]] = {
        "data": (text, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
        "data-root": (folder, "folder of the named data sets; missing ones are downloaded to it"),
        "resolution": (number, "input resolution in pixels (default: the network's)"),
        "images": (number, "train on N images, the same share of each class (default: all)"),
        "teacher": (folder, "run or exported folder whose network teaches this one (knowledge distillation)"),
        "init-from": (folder, "initial weights: a run or exported folder, a weights file, or torchvision"),
        "seed": (number, "seed of the initial weights and the training (default: 0)"),
        "runtime": (text, "runtime to export for, in addition to ONNX: see `nas list runtimes`"),
        "out": (folder, "output folder; rerun the same command to resume (default: runs/train-ARCH-DATA)"),
    }
    recipe: dict[str, tuple[dict[str, Any], str]] = {
        "epochs": (number, "passes over the training images (default: 30)"),
        "batch-size": (number, "images per step (default: 32)"),
        "learning-rate": (real, "peak learning rate (default: 0.003)"),
        "optimizer": (text, "adamw (default), sgd or rmsprop"),
        "momentum": (real, "momentum of sgd and rmsprop (default: 0.9)"),
        "weight-decay": (real, "weight decay; sgd and rmsprop skip batch norms and biases (default: 0.01)"),
        "schedule": (text, "onecycle (default) or cosine"),
        "warmup-epochs": (real, "epochs of linear warm-up before cosine (default: 0)"),
        "label-smoothing": (real, "share of the label given to all classes (default: 0.1)"),
        "clip": (real, "largest norm of the gradients (default: 5; 0 disables)"),
        "ema-decay": (
            real,
            "export an average of the weights with this decay, such as 0.999 (default: 0, none)",
        ),
        "mixup": (real, "alpha of mixup (default: 0, none)"),
        "cutmix": (real, "alpha of CutMix (default: 0, none)"),
        "randaugment": (number, "magnitude of RandAugment, 1 to 30 (default: 0, none)"),
        "drop-connect": (real, "drop-connect rate at the last block (default: 0)"),
        "distill-weight": (real, "weight of the teacher's outputs in the loss (default: 0.5)"),
        "distill-temperature": (real, "temperature of distillation (default: 4)"),
    }
    for flag, (options, description) in job.items():
        parser.add_argument(f"--{flag}", help=description, **options)
    group = parser.add_argument_group("training recipe")
    group.add_argument(
        "--recipe",
        default="default",
        metavar="NAME",
        help="default, or imagenet (that of MnasNet and EfficientNet)",
    )
    for flag, (options, description) in recipe.items():
        group.add_argument(f"--{flag}", help=description, **options)
    group.add_argument(
        "--amp",
        action="store_const",
        const=True,
        help="train in mixed precision (float16 on a GPU without bfloat16, bfloat16 otherwise)",
    )


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Train as the flags describe, and return the result."""
    import dataclasses

    from nas.errors import UsageError
    from nas.training.job import TrainJob, run_train
    from nas.training.recipe import RECIPES, Recipe
    from nas.utils.registry import lookup

    def given(kind: Any) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(kind) if field.name != "recipe"]
        return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}

    settings = given(Recipe)
    for key in ("distill_weight", "distill_temperature"):
        if key in settings and args.teacher is None:
            raise UsageError("has no effect without --teacher", key=key, value=settings[key])
    recipe = dataclasses.replace(lookup(RECIPES, args.recipe, "recipe", "--recipe"), **settings)
    return run_train(TrainJob(recipe=recipe, **given(TrainJob)), reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the network, its accuracy and size, and the files."""
    from nas.utils.units import format_count

    tested = f"{result['test_accuracy']:.1%} on the test set of {result['data']['name']}"
    print(f"architecture  {result['architecture']}, {result['network']}")
    print(f"accuracy      {tested}, {result['validation_accuracy']:.1%} on the validation set")
    print(f"size          {format_count(result['params'])} parameters, {format_count(result['macs'])} MACs")
    print(f"curve         {Path(result['model']).with_name('curve.png')}")
    print(f"model         {result['model']}")
