"""`nas search`: the main job."""

from __future__ import annotations

import argparse
from typing import Any

from nas.utils.reporting import Reporter

HELP = "find the most accurate network within a latency target, and prove it on this device"


TEXT: dict[str, Any] = {"metavar": "NAME"}
NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
REAL: dict[str, Any] = {"type": float, "metavar": "W"}
SWITCH: dict[str, Any] = {"action": "store_true"}
SEVERAL: dict[str, Any] = {"action": "append"}
Flags = dict[str, tuple[dict[str, Any], str]]
WHAT: Flags = {
    "target-latency": ({"metavar": "T", **SEVERAL}, "the latency budget, as 20ms or 0.02s; again for another goal"),
    "space": (TEXT, "a shipped search space or a YAML file (default: the table's own, else mnasnet)"),
    "data": (TEXT, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
    "data-root": ({"metavar": "DIR"}, "where named data sets lie or are downloaded to"),
    "objective": (TEXT, "soft (default), hard, constrained or pareto"),
    "axes": ({"metavar": "A,B"}, "what pareto trades: accuracy,latency (default), params, macs, energy, memory"),
    "alpha": (REAL, "the reward's exponent within the target"),
    "beta": (REAL, "the reward's exponent beyond the target"),
}
DEVICE: Flags = {
    "runtime": (TEXT, "onnxruntime (default), or another of `nas list runtimes`"),
    "threads": (NUMBER, "threads of the runtime (default: 1)"),
    "device": ({"metavar": "URL"}, "where to measure: local (default) or ssh://user@host:port/path/to/python"),
    "table": ({**TEXT, **SEVERAL}, "a shipped or imported latency table or a file, not the device's; repeatable"),
    "any-device": (SWITCH, "use a table of another device"),
}
HOW: Flags = {
    "controller": (TEXT, "surrogate (default), or another of `nas list controllers`"),
    "trials": (NUMBER, "candidates to evaluate (default: 12)"),
    "seed": (NUMBER, "decides candidates, training and result (default: 0)"),
    "warm-start": (TEXT, "begin with the best of random candidates by a zero-cost score, as synflow"),
    "warm-start-samples": (NUMBER, "how many random candidates that are (default: 64)"),
    "start-from": ({"metavar": "X", **SEVERAL}, "begin with a run's folder or a known network; repeatable"),
    "fidelity": (TEXT, "full (default), halving or hyperband: stop trainings that fall behind"),
    "eta": (NUMBER, "one of so many goes on at each rung (default: 2)"),
    "min-epochs": (NUMBER, "epochs before the first rung (default: 1)"),
}
ACCURACY: Flags = {
    "evaluator": (TEXT, "proxy_training (default), another of `nas list evaluators`, or package.module:function"),
    "accuracies": ({"metavar": "FILE"}, "a CSV or Parquet of accuracies, or a run's folder, to search in"),
    "supernet": ({"metavar": "DIR"}, "a trained supernet that evaluates the candidates"),
    "supernet-epochs": (NUMBER, "epochs of a supernet that --evaluator supernet trains in the run's folder"),
    "proxy-resolution": (NUMBER, "input resolution of the candidates' short training, in pixels"),
    "proxy-epochs": (NUMBER, "epochs of the candidates' short training"),
    "proxy-images": (NUMBER, "images of the candidates' short training"),
    "finalists": (NUMBER, "candidates to evaluate again at most, before a winner is named (default: 5)"),
    "finalist-seeds": (NUMBER, "rounds in which they are, each with another seed (default: 2; 0: none)"),
    "train-finalists": (NUMBER, "train the best N where the evaluator trains nobody (default: 0, none)"),
    "final-epochs": (NUMBER, "epochs of the winner's training at the small resolution"),
    "final-images": (NUMBER, "images of its last epoch, at the deployed resolution (default: 500)"),
}
WHERE: Flags = {
    "run": ({"metavar": "DIR"}, "the run's folder; the same command continues there, several share it"),
    "storage": ({"metavar": "URL"}, "a database for the trials, as sqlite:///runs.db (default: the run's folder)"),
    "worker": (SWITCH, "only evaluate candidates of a study that others share, and leave the winner to them"),
    "retry-failed": (SWITCH, "evaluate candidates that failed again, before new ones"),
    "workers": (NUMBER, "processes here that evaluate candidates (default: 0, this one)"),
    "trial-timeout": ({"metavar": "T"}, "the time that a candidate has, as 30min (implies --workers 1)"),
    "ray": (
        {"metavar": "ADDRESS", "nargs": "?", "const": "local"},
        "evaluate on a Ray cluster: auto, host:port, or without ADDRESS one of this machine",
    ),
    "ray-cpus": ({"type": float, "metavar": "N"}, "processors for each candidate there (default: 1)"),
    "ray-gpus": ({"type": float, "metavar": "N"}, "GPUs for each candidate there, or a part of one (default: 0)"),
}
GROUPS = {
    "what is searched": WHAT,
    "the device": DEVICE,
    "how it is searched": HOW,
    "accuracies": ACCURACY,
    "where trials are kept and evaluated": WHERE,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; each has its default in Experiment, so that a flag that is not given changes nothing."""
    parser.add_argument("experiment", nargs="?", metavar="FILE", help="an experiment's YAML; flags go before it")
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for flag, (options, text) in flags.items():
            group.add_argument(f"--{flag}", help=text, default=None, **options)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the result of the search that the experiment file and the flags describe."""
    import dataclasses

    from nas.searching.job import run_search
    from nas.searching.settings import SearchSettings, read_settings, with_implied

    settings = read_settings(args.experiment) if args.experiment else {}
    for field in dataclasses.fields(SearchSettings):
        given = getattr(args, field.name)
        if given is not None:
            settings[field.name] = given
    experiment = SearchSettings(**with_implied(settings))
    if experiment.tables and "space" not in settings:
        from nas.latency.catalog import open_named

        space = str(open_named(experiment.tables[0]).header.get("space", SearchSettings.space))
        experiment = dataclasses.replace(experiment, space=space)
    return run_search(experiment, reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the winner of each goal."""
    from nas.evaluators.rank_check.records import describe_record

    if "best" not in result and "goals" not in result:
        print(f"worker        {result['evaluated']} candidates evaluated here, {result['trials']} in all")
        return
    for goal in result.get("goals", [result]):
        if "name" in goal:
            print(f"goal          {goal['name']}")
        _print_winner(goal, f"best of {result['trials']} trials ({result['objective']})")
    if "hypervolume" in result:
        axes, share = ", ".join(result["axes"]), result["hypervolume"][-1]
        print(f"front         {len(result['front'])} networks by {axes}; hypervolume {share:.4f}")
    checked = result["evaluator_check"]
    print(f"proxy ranks   {describe_record(checked) if checked else 'nobody knows how well: see nas check-proxy'}")


def _print_winner(goal: dict[str, Any], of: str) -> None:
    from nas.utils.units import format_count, format_latency

    best, target = goal["best"], format_latency(goal["target_latency_ms"])
    predicted, measured = format_latency(best["latency_ms"]["predicted"]), best["latency_ms"]["measured"]
    print(f"architecture  {best['architecture']}, {of}")
    if measured is None:
        verdict = "within" if goal["predicted_to_hold_target"] else "NOT WITHIN"
        print(f"latency       {predicted}, {verdict} {target} by prediction")
        print(f"              {goal['latency_basis']}")
    else:
        verdict = "holds" if goal["holds_target"] else "DOES NOT HOLD"
        print(f"latency       {format_latency(measured)} measured, {predicted} predicted: {verdict} {target}")
    print(f"accuracy      {best['test_accuracy']:.1%} on the test set, {best['accuracy']:.1%} as a proxy")
    print(f"size          {format_count(best['params'])} parameters, {format_count(best['macs'])} MACs")
    print(f"model         {best['model']}")
