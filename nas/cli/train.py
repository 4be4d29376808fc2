"""`nas train`: train one network fully."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.flags import flags_of
from nas.searching.settings import SearchSettings
from nas.utils.reporting import Reporter

HELP = "train a network, a run's winner or an architecture fully, and write a folder for `nas export`"
MOST_USED = ("data", "epochs", "resolution", "recipe", "images", "init_from", "teacher", "runtime", "out", "seed")
"""The flags that `--help` shows; `--help-all` shows all."""
EXAMPLES = ("nas train mobilenet_v2_1.0 --data DIR", "nas train runs/a --epochs 100")

_TEXT: dict[str, Any] = {"metavar": "NAME"}
_FOLDER: dict[str, Any] = {"metavar": "DIR"}
_NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
_REAL: dict[str, Any] = {"type": float, "metavar": "X"}
_SWITCH: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
_JOB_FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "task": (_TEXT, "classification (default) or detection"),
    "data": (_TEXT, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
    "data-root": (_FOLDER, "folder of the named data sets; missing ones are downloaded to it"),
    **flags_of(SearchSettings, "fit", "flip"),
    "resolution": ({"metavar": "PX"}, "input in pixels: 96, or height and width as 192x256 (default: the network's)"),
    "metric": (_TEXT, "what is reported: accuracy (default), balanced_accuracy or macro_f1"),
    "class-weights": (_TEXT, "weights of the classes in the loss: none (default) or balanced"),
    "images": (_NUMBER, "train on a stratified subset of N images (default: all)"),
    "teacher": (_FOLDER, "run or exported folder whose network teaches this one (knowledge distillation)"),
    "init-from": (_FOLDER, "initial weights: a run or exported folder, a weights file, or torchvision"),
    "seed": (_NUMBER, "seed of the initial weights and the training (default: 0)"),
    "runtime": (_TEXT, "runtime to export for, in addition to ONNX: see `nas list runtimes`"),
    "precision": (_TEXT, "numbers of the exported network: float32 (default), float16, bfloat16 or int8"),
    "out": (_FOLDER, "output folder; rerun the same command to resume (default: runs/train-ARCH-DATA)"),
}
_RECIPE_FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": (_NUMBER, "passes over the training images (default: 30)"),
    "batch-size": (_NUMBER, "images per step (default: 32, of detectors 8)"),
    "learning-rate": (_REAL, "peak learning rate (default: 0.001)"),
    "optimizer": (_TEXT, "adamw (default), sgd or rmsprop"),
    "momentum": (_REAL, "momentum of sgd and rmsprop (default: 0.9)"),
    "weight-decay": (_REAL, "weight decay of the weights; see --decay-norms (default: 0.01)"),
    "decay-norms": (_SWITCH, "whether adamw also decays batch norms and biases (default: no)"),
    "schedule": (_TEXT, "onecycle (default) or cosine"),
    "warmup-epochs": (_REAL, "epochs of linear warm-up before cosine (default: 0)"),
    "label-smoothing": (_REAL, "share of the label given to all classes (default: 0.1)"),
    "clip": (_REAL, "maximum gradient norm, for clipping (default: 5; 0 disables)"),
    "ema-decay": (_REAL, "export an average of the weights with this decay, such as 0.999 (default: 0, none)"),
    "ema-share": (_REAL, "the same with a decay that averages over this share of the training (default: 0, none)"),
    "average-last": (_REAL, "export the mean of the weights of this last share of the training (default: 0, none)"),
    "crop-scale": (
        _REAL,
        "smallest share of the area that a random crop keeps (default: 0.35 for photographs; else 0, none)",
    ),
    "first-size": (_REAL, "resolution of the first epochs as a share of the last one (default: 0.5; 1: all alike)"),
    "mixup": (_REAL, "alpha of mixup (default: 0, none)"),
    "cutmix": (_REAL, "alpha of CutMix (default: 0, none)"),
    "randaugment": (_NUMBER, "magnitude of RandAugment, 1 to 30 (default: 0, none)"),
    "drop-connect": (_REAL, "drop-connect rate at the last block (default: 0)"),
    "branches": (
        _NUMBER,
        "parallel k x k convolutions while training, beside 1x1 and identity, folded at the end (default: 0)",
    ),
    "distill-weight": (_REAL, "weight of the teacher's outputs in the loss (default: 0.5)"),
    "distill-temperature": (_REAL, "temperature of distillation (default: 4)"),
}
"""The parser sets no defaults: the named recipe provides them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "network",
        metavar="ARCH",
        help="network name, YAML file, run folder, exported folder, or JSON file of an architecture",
    )
    for flag, (options, description) in _JOB_FLAGS.items():
        parser.add_argument(f"--{flag}", help=description, **options)
    group = parser.add_argument_group("training recipe")
    group.add_argument(
        "--recipe",
        default="default",
        metavar="NAME",
        help="default, onecycle (the default of earlier versions), or imagenet (that of MnasNet and EfficientNet)",
    )
    for flag, (options, description) in _RECIPE_FLAGS.items():
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

    from nas.devices.runtimes import with_precision
    from nas.errors import UsageError
    from nas.training.job import TrainJob, run_train
    from nas.training.recipe import ONECYCLE, RECIPES, Recipe, changed
    from nas.utils.registry import lookup

    def given(kind: Any) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(kind) if field.name != "recipe"]
        return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}

    settings = given(Recipe)
    for key in ("distill_weight", "distill_temperature"):
        if key in settings and args.teacher is None:
            raise UsageError("has no effect without --teacher", key=key, value=settings[key])
    recipe = changed(lookup(RECIPES, args.recipe, "recipe", "--recipe"), settings)
    is_default = args.recipe == "default"
    if args.precision is not None:
        args.runtime = with_precision(args.runtime or TrainJob.runtime, args.precision)
    job = TrainJob(
        recipe=recipe,
        adapts=args.recipe in ("default", "onecycle") and "learning_rate" not in settings,
        adapts_crops=is_default and "crop_scale" not in settings,
        adapts_batch_size=is_default and "batch_size" not in settings,
        former=changed(ONECYCLE, settings) if is_default else None,
        **given(TrainJob),
    )
    return run_train(job, reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the network, its accuracy and size, and the files."""
    from nas.cli.accuracy import print_accuracy
    from nas.utils.units import format_count

    value = result[f"validation_{result.get('metric', 'accuracy')}"]
    print(f"architecture  {result['architecture']}, {result['network']}")
    tested_on = f"on the test set of {result['data']['name']}"
    print_accuracy(result, tested_on, f"{value:.1%} on the validation set")
    print(f"size          {format_count(result['params'])} parameters, {format_count(result['macs'])} MACs")
    print(f"curve         {Path(result['model']).with_name('curve.png')}")
    print(f"model         {result['model']}")
