"""`nas check-proxy`: how well evaluators rank networks that were really trained."""

from __future__ import annotations

import argparse
from typing import Any

from nas.utils.reporting import Reporter

HELP = "train a small reference and say how well each evaluator ranks it, and the reference itself"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; each has its default in Check, so that a flag that is not given changes nothing."""
    text: dict[str, Any] = {"metavar": "NAME"}
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    flags: dict[str, tuple[dict[str, Any], str]] = {
        "space": (text, "a shipped search space or a YAML file (default: cifar)"),
        "data": (text, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
        "data-root": ({"metavar": "DIR"}, "where named data sets lie or are downloaded to"),
        "networks": (number, "networks of the reference, one from each stratum of MACs (default: 16)"),
        "seeds": (number, "trainings of each (default: 2; with 1 nobody knows how well the reference repeats itself)"),
        "supernet": ({"metavar": "DIR"}, "judge this trained supernet too"),
        "accuracies": ({"metavar": "FILE"}, "judge this table of accuracies too"),
        "proxy-epochs": (number, "epochs of a training of the reference (default: the space's)"),
        "proxy-images": (number, "images of a training of the reference (default: the space's)"),
        "supernet-epochs": (number, "epochs of the supernet, where --evaluator supernet trains one"),
        "jobs": (number, "trainings at a time, each on its share of the cores (default: 1)"),
        "seed": (number, "decides the networks (default: 0)"),
        "run": ({"metavar": "DIR"}, "the folder; the same command continues there"),
    }
    parser.add_argument("--evaluator", action="append", metavar="NAME", dest="evaluators",
                        help="an evaluator to judge, may be given several times (default: all zero-cost scores); "
                        "params and macs are judged always")  # fmt: skip
    for flag, (options, text_of) in flags.items():
        parser.add_argument(f"--{flag}", help=text_of, **options)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the figures of the check."""
    import dataclasses

    from nas.evaluators.rank_check.check import Check, run_check

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Check)}
    given["evaluators"] = tuple(given["evaluators"] or ())
    return run_check(Check(**{key: value for key, value in given.items() if value is not None}), reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the reference, then every evaluator, the best first."""
    from nas.evaluators.rank_check.rank_correlation import Agreement

    reference = result["reference"]
    print(f"reference  {result['networks']} networks of {result['space']}, {result['seeds']} trainings of each")
    print(f"           {reference['lowest']:.1%} to {reference['highest']:.1%}", end="")
    if reference["agreement"]:
        print(f", one training is {reference['noise']:.1%} from the network's mean (standard deviation)")
        print(f"           one seed by another: {Agreement.from_dict(reference['agreement'])}")
    else:
        print(", one seed: how well it repeats itself is not known")
    print(f"{'evaluator':<28} {'Kendall':>8}  {'95 %':<14} {'Spearman':>8}  cheaper than a training")
    for judged in sorted(result["evaluators"], key=lambda item: -item["agreement"]["kendall"]):
        found = Agreement.from_dict(judged["agreement"])
        low, high = found.kendall_interval
        cheaper = f"{judged['cheaper']:,.1f} times" if judged["cheaper"] else "-"
        span = f"{low:.2f} to {high:.2f}"
        print(f"{judged['name']:<28} {found.kendall:>8.2f}  {span:<14} {found.spearman:>8.2f}  {cheaper}")
    print(f"figures    {result['folder']}")
