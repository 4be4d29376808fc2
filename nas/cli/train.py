"""`nas train`: one network, fully."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.utils.reporting import Reporter

HELP = "train a network, a run's winner or an architecture fully, and write what export takes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those of the recipe have their defaults in the named recipe."""
    text: dict[str, Any] = {"metavar": "NAME"}
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    real: dict[str, Any] = {"type": float, "metavar": "X"}
    parser.add_argument(
        "network", metavar="ARCH", help="a network's name or YAML, a run or exported folder, or an architecture's JSON"
    )
    job: dict[str, tuple[dict[str, Any], str]] = {
        "data": (text, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
        "data-root": ({"metavar": "DIR"}, "where named data sets lie or are downloaded to"),
        "resolution": (number, "input resolution in pixels (default: the network's)"),
        "images": (number, "train on a stratified part of so many images (default: all)"),
        "teacher": ({"metavar": "DIR"}, "a run or exported folder whose network is distilled from"),
        "init-from": ({"metavar": "DIR"}, "weights to start from: such a folder, a file of weights, or torchvision"),
        "seed": (number, "decides first weights and training (default: 0)"),
        "runtime": (text, "form to add to ONNX: see `nas list runtimes`"),
        "out": ({"metavar": "DIR"}, "the folder; the same command continues there (default: runs/train-ARCH-DATA)"),
    }
    recipe: dict[str, tuple[dict[str, Any], str]] = {
        "epochs": (number, "how often each image is seen (default: 30)"),
        "batch-size": (number, "images of a step (default: 32)"),
        "learning-rate": (real, "the largest (default: 0.003)"),
        "optimizer": (text, "adamw (default), sgd or rmsprop"),
        "momentum": (real, "of sgd and rmsprop (default: 0.9)"),
        "weight-decay": (real, "with sgd and rmsprop not on batch norms and biases (default: 0.01)"),
        "schedule": (text, "onecycle (default) or cosine"),
        "warmup-epochs": (real, "linear warm-up before cosine (default: 0)"),
        "label-smoothing": (real, "share of the label given to all classes (default: 0.1)"),
        "clip": (real, "largest norm of the gradients (default: 5; 0: none)"),
        "ema-decay": (real, "average the weights, as 0.999, and keep the average (default: 0, none)"),
        "mixup": (real, "alpha of mixup (default: 0, none)"),
        "cutmix": (real, "alpha of CutMix (default: 0, none)"),
        "randaugment": (number, "magnitude of RandAugment, to 30 (default: 0, none)"),
        "drop-connect": (real, "rate of drop-connect at the last block (default: 0)"),
        "distill-weight": (real, "share of the teacher in the loss (default: 0.5)"),
        "distill-temperature": (real, "softens both outputs (default: 4)"),
    }
    for flag, (options, text_of) in job.items():
        parser.add_argument(f"--{flag}", help=text_of, **options)
    group = parser.add_argument_group("how to train")
    group.add_argument("--recipe", default="default", metavar="NAME", help="default, or imagenet: as MnasNet's")
    for flag, (options, text_of) in recipe.items():
        group.add_argument(f"--{flag}", help=text_of, **options)
    group.add_argument("--amp", action="store_const", const=True, help="mixed precision: bfloat16 where there is")


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the result of the training that the flags describe."""
    import dataclasses

    from nas.errors import UsageError
    from nas.training.job import TrainJob, run_train
    from nas.training.recipe import RECIPES, Recipe
    from nas.utils.registry import lookup

    def given(kind: Any, left_out: str = "") -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(kind) if field.name != left_out]
        return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}

    settings = given(Recipe)
    for key in ("distill_weight", "distill_temperature"):
        if key in settings and args.teacher is None:
            raise UsageError(f"--{key.replace('_', '-')}: means nothing without --teacher: {settings[key]:g}")
    recipe = dataclasses.replace(lookup(RECIPES, args.recipe, "recipe", "--recipe"), **settings)
    return run_train(TrainJob(recipe=recipe, **given(TrainJob, "recipe")), reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print what the network can do, and where it lies."""
    from nas.utils.units import format_count

    print(f"architecture  {result['architecture']}, {result['network']}")
    print(f"accuracy      {result['test_accuracy']:.1%} on the test set of {result['data']['name']}, "
          f"{result['validation_accuracy']:.1%} on held-out images")  # fmt: skip
    print(f"size          {format_count(result['params'])} parameters, {format_count(result['macs'])} MACs")
    print(f"curve         {Path(result['model']).with_name('curve.png')}")
    print(f"model         {result['model']}")
