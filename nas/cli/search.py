"""`nas search`: the main job."""

from __future__ import annotations

import argparse
from typing import Any

from nas.progress import Reporter

HELP = "find the most accurate network within a latency target, and prove it on this device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; each has its default in Experiment, so that a flag that is not given changes nothing."""
    parser.add_argument("experiment", nargs="?", metavar="FILE", help="an experiment's YAML; flags go before it")
    text, number, real = {"metavar": "NAME"}, {"type": int, "metavar": "N"}, {"type": float, "metavar": "W"}
    several = {"action": "append"}
    flags: dict[str, tuple[dict[str, Any], str]] = {
        "target-latency": ({"metavar": "T", **several}, "the latency budget, as 20ms or 0.02s; again for another goal"),
        "space": (text, "a shipped search space or a YAML file (default: the table's own, else mnasnet)"),
        "data": (text, "digits (default), cifar10, cifar100, fashion_mnist, or an image folder"),
        "data-root": ({"metavar": "DIR"}, "where named data sets lie or are downloaded to"),
        "objective": (text, "soft (default), hard, constrained or pareto"),
        "axes": ({"metavar": "A,B"}, "what pareto trades: accuracy,latency (default), params, macs, energy, memory"),
        "alpha": (real, "the reward's exponent within the target"),
        "beta": (real, "the reward's exponent beyond the target"),
        "runtime": (text, "onnxruntime (default), or another of `nas list runtimes`"),
        "threads": (number, "threads of the runtime (default: 1)"),
        "device": ({"metavar": "URL"}, "where to measure: local (default) or ssh://user@host:port/path/to/python"),
        "table": ({**text, **several}, "a shipped or imported latency table or a file, not the device's; repeatable"),
        "controller": (text, "tpe (default), or another of `nas list controllers`"),
        "evaluator": (text, "proxy_training (default), another of `nas list evaluators`, or package.module:function"),
        "accuracies": ({"metavar": "FILE"}, "a CSV or Parquet of accuracies, or a run's folder, to search in"),
        "supernet": ({"metavar": "DIR"}, "a trained supernet that evaluates the candidates"),
        "supernet-epochs": (number, "epochs of a supernet that --evaluator supernet trains in the run's folder"),
        "train-finalists": (number, "train the best N where the evaluator trains nobody (default: 0, none)"),
        "warm-start": (text, "begin with the best of random candidates by a zero-cost score, as synflow"),
        "warm-start-samples": (number, "how many random candidates that are (default: 64)"),
        "start-from": ({"metavar": "X", **several}, "begin with a run's folder or a known network; repeatable"),
        "trials": (number, "candidates to evaluate (default: 12)"),
        "seed": (number, "decides candidates, training and result (default: 0)"),
        "proxy-resolution": (number, "input resolution of the candidates' short training, in pixels"),
        "proxy-epochs": (number, "epochs of the candidates' short training"),
        "proxy-images": (number, "images of the candidates' short training"),
        "final-epochs": (number, "epochs of the winner's training at the small resolution"),
        "final-images": (number, "images of its last epoch, at the deployed resolution (default: 500)"),
        "run": ({"metavar": "DIR"}, "the run's folder; the same command continues there"),
        "storage": ({"metavar": "URL"}, "a database for the trials, as sqlite:///runs.db (default: the run's folder)"),
        "fidelity": (text, "full (default), halving or hyperband: stop trainings that fall behind"),
        "eta": (number, "one of so many goes on at each rung (default: 2)"),
        "min-epochs": (number, "epochs before the first rung (default: 1)"),
        "finalists": (number, "candidates to evaluate again at most, before a winner is named (default: 5)"),
        "finalist-seeds": (number, "rounds in which they are, each with another seed (default: 2; 0: none)"),
    }
    for flag, (options, text_of) in flags.items():
        parser.add_argument(f"--{flag}", help=text_of, **options)
    switches = {
        "any-device": "use a table of another device",
        "worker": "only evaluate candidates of a study that others share, and leave the winner to them",
        "retry-failed": "evaluate candidates that failed again, before new ones",
    }
    for flag, text_of in switches.items():
        parser.add_argument(f"--{flag}", action="store_true", default=None, help=text_of)
    _add_executor_flags(parser)


def _add_executor_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where candidates are evaluated: no part of an experiment, so a run may go on elsewhere."""
    flags: dict[str, tuple[dict[str, Any], str]] = {
        "workers": ({"type": int, "metavar": "N"}, "processes here that evaluate candidates (default: 0, this one)"),
        "trial-timeout": ({"metavar": "T"}, "the time that a candidate has, as 30min (implies --workers 1)"),
        "ray": (
            {"metavar": "ADDRESS", "nargs": "?", "const": "local"},
            "evaluate on a Ray cluster: auto, host:port, or without ADDRESS one of this machine",
        ),
        "ray-cpus": ({"type": float, "metavar": "N"}, "processors for each candidate there (default: 1)"),
        "ray-gpus": ({"type": float, "metavar": "N"}, "GPUs for each candidate there, or a part of one (default: 0)"),
    }
    for flag, (options, text_of) in flags.items():
        parser.add_argument(f"--{flag}", help=text_of, **options)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the result of the search that the experiment file and the flags describe."""
    import dataclasses

    from nas.experiment import Experiment, read_experiment, with_implied
    from nas.job import run_search

    settings = read_experiment(args.experiment) if args.experiment else {}
    for field in dataclasses.fields(Experiment):
        given = getattr(args, field.name)
        if given is not None:
            settings[field.name] = given
    experiment = Experiment(**with_implied(settings))
    if experiment.tables and "space" not in settings:
        from nas.tables import open_named

        space = str(open_named(experiment.tables[0]).header.get("space", Experiment.space))
        experiment = dataclasses.replace(experiment, space=space)
    return run_search(experiment, reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the winner of each goal."""
    from nas.trust import in_words

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
    print(f"proxy ranks   {in_words(checked) if checked else 'nobody knows how well: see nas check-proxy'}")


def _print_winner(goal: dict[str, Any], of: str) -> None:
    from nas.units import format_count, format_latency

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
