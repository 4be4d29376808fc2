"""`nas check-proxy`: trains reference networks and reports how well each evaluator ranks them."""

from __future__ import annotations

import argparse
from typing import Any

from nas.cli.flags import flags_of
from nas.searching.settings import TASK_DEFAULTS, SearchSettings
from nas.utils.reporting import Reporter

HELP = "train reference networks and report how well each evaluator ranks them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags. Their defaults are those of `Check`: an omitted flag is None here."""
    text: dict[str, Any] = {"metavar": "NAME"}
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    directory: dict[str, Any] = {"metavar": "DIR"}
    flags: dict[str, tuple[dict[str, Any], str]] = {
        "space": (text, "a shipped search space or a YAML file (default: cifar; of detection small_detector)"),
        "data": (
            text,
            "digits (default), cifar10, cifar100, fashion_mnist, or an image folder; of detection, a COCO "
            "file or folder",
        ),
        "data-root": (directory, "folder of the named data sets; missing ones are downloaded to it"),
        **flags_of(SearchSettings, "task", "metric", "class_weights", "fit", "flip"),
        "networks": (number, "number of reference networks, one from each stratum of MACs (default: 16)"),
        "seeds": (number, "trainings per network (default: 2); the agreement between seeds needs at least 2"),
        "supernet": (directory, "also check this trained supernet"),
        "accuracies": ({"metavar": "FILE"}, "also check this table of accuracies"),
        "proxy-epochs": (number, "epochs of a reference training (default: from the space)"),
        "proxy-images": (number, "number of training images per reference training (default: from the space)"),
        "supernet-epochs": (
            number,
            "epochs of the supernet, for --evaluator supernet (default: from the space)",
        ),
        "jobs": (number, "trainings at a time, which share the cores equally (default: 1)"),
        "seed": (number, "seed that selects the networks (default: 0)"),
        "run": (directory, "folder of the check; rerun the same command to resume"),
    }
    evaluator_help = (
        "an evaluator to check; can be repeated (default: all zero-cost scores). params and macs are always included"
    )
    parser.add_argument("--evaluator", action="append", metavar="NAME", dest="evaluators", help=evaluator_help)
    for flag, (options, help_text) in flags.items():
        parser.add_argument(f"--{flag}", help=help_text, **options)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Run the check and return its result."""
    import dataclasses

    from nas.evaluators.rank_check.check import Check, run_check

    names = [field.name for field in dataclasses.fields(Check)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given["evaluators"] = tuple(given.get("evaluators", ()))
    defaults = {key: value for key, value in TASK_DEFAULTS.get(args.task, {}).items() if key in names}
    return run_check(Check(**{**defaults, **given}), reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the reference, then the evaluators, best first."""
    from nas.evaluators.rank_check.rank_correlation import Agreement
    from nas.training.tasks.metrics import spell

    reference = result["reference"]
    print(f"reference  {result['networks']} networks of {result['space']}, {result['seeds']} trainings each")
    metric = spell(result.get("metric", "accuracy"))
    print(f"           {metric} {reference['lowest']:.1%} to {reference['highest']:.1%}", end="")
    if reference["agreement"]:
        print(f", standard deviation between seeds {reference['noise']:.1%}")
        print(f"           agreement between seeds: {Agreement.from_dict(reference['agreement'])}")
    else:
        print("; the agreement between seeds needs --seeds 2")
    print(f"{'evaluator':<28} {'Kendall':>8}  {'95 %':<14} {'Spearman':>8}  cheaper than a training")
    for judged in sorted(result["evaluators"], key=lambda item: -item["agreement"]["kendall"]):
        found = Agreement.from_dict(judged["agreement"])
        low, high = found.kendall_interval
        cheaper = f"{judged['cheaper']:,.1f} times" if judged["cheaper"] else "-"
        interval = f"{low:.2f} to {high:.2f}"
        print(f"{judged['name']:<28} {found.kendall:>8.2f}  {interval:<14} {found.spearman:>8.2f}  {cheaper}")
    print(f"results    {result['folder']}")
