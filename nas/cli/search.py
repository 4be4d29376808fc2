"""`nas search`: the main job."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from nas.cli.flags import add_groups, groups_of
from nas.errors import naming_file
from nas.searching.settings import SearchSettings, make_settings, read_settings
from nas.utils.reporting import Reporter
from nas.utils.settings import settings_of

HELP = "find the most accurate network within a latency target, and measure it on the device"
MOST_USED = (
    "target_latency", "data", "budget", "space", "resolution", "objective", "device", "runtime", "against", "run",
    "seed",
)  # fmt: skip
"""The flags that `--help` shows, if they exist; `--help-all` shows all."""
EXAMPLES = ("nas search --target-latency 20ms", "nas search --target-latency 20ms --data DIR --device ssh://user@host")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each search setting."""
    parser.add_argument(
        "experiment", nargs="?", metavar="FILE", help="a YAML file with settings; flags take precedence over it"
    )
    add_groups(parser, groups_of(SearchSettings))


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Run the search that the experiment file and the flags describe, and return its result."""
    import time

    started = time.monotonic()  # the import of torch counts
    from nas.searching.job import run_search

    settings = read_settings(args.experiment) if args.experiment else {}
    flags = {each.field.name: getattr(args, each.field.name) for each in settings_of(SearchSettings)}
    settings |= {name: value for name, value in flags.items() if value is not None}
    made = make_settings(settings)
    with naming_file(made.space):
        return run_search(made, reporter, started)


def print_result(result: dict[str, Any]) -> None:
    """Print the winner of each goal."""
    if "best" not in result and "goals" not in result:
        print(f"worker        {result['evaluated']} candidates evaluated here, {result['trials']} in total")
        return
    for goal in result.get("goals", [result]):
        if "name" in goal:
            print(f"goal          {goal['name']}")
        _print_winner(goal, f"best of {result['trials']} trials ({result['objective']})")
    if "hypervolume" in result:
        axes, volume = ", ".join(result["axes"]), result["hypervolume"][-1]
        print(f"front         {len(result['front'])} networks by {axes}; hypervolume {volume:.4f}")
    _print_ranking(result)
    for goal in result.get("goals", [result]):
        for reference in goal.get("against", ()):
            print_comparison(reference, goal["best"], goal.get("name", ""))


def _print_ranking(result: Mapping[str, Any]) -> None:
    """Print how well the accuracies that ranked the candidates tell them apart, and what else is known of them."""
    from nas.evaluators.rank_check.records import describe_record

    certificate, checked = result.get("evaluator_certificate"), result["evaluator_check"]
    if certificate and certificate["reliability"] is not None:
        interval = f"{certificate['low']:.2f} to {certificate['high']:.2f}"
        is_low = certificate["reliability"] < certificate["wanted"]
        verdict = f", less than asked for ({certificate['wanted']:g})" if is_low else ""
        print(f"reliability   {certificate['reliability']:.2f} ({interval}) of the accuracies of candidates{verdict}")
    for goal in result.get("goals", [result]):
        if goal.get("tied") is not None:
            named = f"{goal['name']}: " if "name" in goal else ""
            print(f"              {named}{goal['tied']} other candidates may be as accurate as the winner")
    if checked or not certificate:
        print(f"proxy ranks   {describe_record(checked) if checked else 'unknown: nas check-proxy measures how well'}")


def _print_winner(goal: dict[str, Any], origin: str) -> None:
    from nas.cli.accuracy import print_accuracy
    from nas.utils.units import format_count, format_latency

    best, target = goal["best"], format_latency(goal["target_latency_ms"])
    predicted, measured = format_latency(best["latency_ms"]["predicted"]), best["latency_ms"]["measured"]
    print(f"architecture  {best['architecture']}, {origin}")
    if measured is None:
        verdict = "within" if goal["predicted_to_hold_target"] else "NOT WITHIN"
        print(f"latency       {predicted}, {verdict} {target} by prediction")
        print(f"              {goal['latency_basis']}")
    else:
        verdict = "holds" if goal["holds_target"] else "DOES NOT HOLD"
        print(f"latency       {format_latency(measured)} measured, {predicted} predicted: {verdict} {target}")
        _print_parts(best["latency_ms"])
        if "exported" in best["latency_ms"]:
            print(f"              {format_latency(best['latency_ms']['exported'])} measured of the exported file")
    print_accuracy(best, "on the test set", f"{best['accuracy']:.1%} as a proxy")
    print(f"size          {format_count(best['params'])} parameters, {format_count(best['macs'])} MACs")
    if "exported" in best:
        runtime = best["exported"].get("runtime", "onnxruntime")
        print(f"              {best['exported']['difference']:+.4f} after the export, in {runtime}")
    print(f"model         {best['model']}")


def _print_parts(latency_ms: Mapping[str, Any]) -> None:
    """Print what network and post-processing of a detector take, if they were measured apart."""
    from nas.utils.units import format_latency

    if "network" in latency_ms:
        network, post, both = (format_latency(latency_ms[key]) for key in ("network", "post_processing", "both"))
        print(f"              network {network} + post-processing {post} = {both}, measured alternately")


def print_comparison(reference: Mapping[str, Any], best: Mapping[str, Any], goal: str = "") -> None:
    """Print a reference beside the winner, and which of them to use if the reference is better.

    Args:
        reference: An entry of `against` in a result.
        best: The winner in the result.
        goal: The name of the goal; "" for the only one.
    """
    from nas.training.tasks.metrics import spell

    key, seeds = f"test_{reference['metric']}", len(reference["accuracies"])
    metric = "" if reference["metric"] == "accuracy" else f" {spell(reference['metric'])}"
    beside, own, each = reference["winner_latency_ms"], best["latency_ms"], reference["latency_ms"]
    theirs, ours = each["measured"] or each["predicted"], beside["measured"] or own["measured"] or own["predicted"]
    name = f"{f'{goal}: ' if goal else ''}{reference['name']}"
    shown = f"{name}: {_spell_latency(theirs)}, {_mean(reference, key):.1%}{metric}"
    if reference.get("is_winner"):
        print(f"against       {shown}; the search found this network itself")
        return
    mean, plus_minus = reference["difference"]["mean"], reference["difference"]["plus_minus"]
    counted = "1 seed each" if seeds == 1 else f"mean of {seeds} seeds"
    if (epochs := reference.get("epochs", 0)) < (own_epochs := reference.get("winner_epochs", 0)):
        counted += f", {epochs} and {own_epochs} epochs in the same time"
    difference = f"{100 * mean:+.1f}" + ("" if plus_minus is None else f" +- {100 * plus_minus:.1f}")
    found = f"{_spell_latency(ours)}, {_mean(best, key):.1%}"
    print(f"against       {shown}; found: {found} ({counted}, {difference})")
    is_sure = plus_minus is None or abs(mean) > plus_minus
    if not is_sure:
        name = "reference" if (theirs or 0) < (ours or 0) else "winner"
        faster = f"; the {name} is faster" if theirs and ours else ""
        folder = f"; the reference is in {reference['model']}"
        print(f"              the accuracies differ by no more than chance{faster}{folder}")
    elif mean < 0:
        advice = f"use it: {reference['model']}"
        if reference["holds_target"] is False:
            advice = f"it does not hold the target; it is in {reference['model']}"
        print(f"              the reference is better by {-100 * mean:.1f} points; {advice}")


def _mean(tested: Mapping[str, Any], key: str) -> float:
    """Return the mean of the metric over the seeds; results of before have one."""
    from statistics import fmean

    return fmean(tested.get("accuracies", {}).values() or [tested[key]])


def _spell_latency(latency_ms: float | None) -> str:
    from nas.utils.units import format_latency

    return "latency unknown" if latency_ms is None else format_latency(latency_ms)
