"""Comparison of compound scaling with single dimensions at the same measured latency and with the same seeds."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.executors.base import Executor, Outcome, Task, evaluate_all
from nas.networks.network import totals, trace
from nas.scaling.family import BASE
from nas.scaling.latency_targets import LatencyEstimator, LatencyTarget, meet_targets
from nas.scaling.presets import Coefficients
from nas.scaling.sizes import DIMENSIONS, Rounding
from nas.training.tasks.metrics import spell, value_keys
from nas.utils.files import append_rows
from nas.utils.reporting import Reporter

COMPOUND = "compound"
ACCURACIES_HEADER = {"format": 1, "rows": "accuracies of scaled networks"}


@dataclass(frozen=True)
class ComparedNetwork:
    """A network of the comparison. Its target is `times^phi` the base's latency, whatever phi its rule needs for that.

    Attributes:
        name: "base", "compound" or a dimension.
        phi: The phi of the target.
        coefficients: The rule; None for the base.
        architecture: The network.
        latency_ms: Its latency in ms.
        target_ms: The target in ms.
        is_close: Whether the latency is close to the target, see `TargetResult`.
        own_phis: Dimensions with a phi of their own, see `TargetResult`.
        accuracies: The values of the task's metric in [0, 1], one for each seed that could be evaluated.
    """

    name: str
    phi: float
    coefficients: Coefficients | None
    architecture: Architecture
    latency_ms: float
    target_ms: float
    is_close: bool = True
    own_phis: tuple[tuple[str, float], ...] = ()
    accuracies: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ComparedNetwork:
        """Return the network of a dict that `to_dict` returned, without accuracies."""
        found = data["coefficients"]
        return cls(
            name=data["name"],
            phi=data["phi"],
            coefficients=Coefficients(**found) if found else None,
            architecture=Architecture.from_dict(data["blocks"]),
            latency_ms=data["latency_ms"],
            target_ms=data["target_latency_ms"],
            is_close=data["within_5_percent"],
            own_phis=tuple(data["strays"].items()),
        )

    def to_dict(self, base: Architecture, metric: str = "accuracy") -> dict[str, Any]:
        """Return the network's entry in the result file. `metric` names its accuracies, see `value_keys`."""
        value, by_seed = value_keys(metric)
        macs = totals(trace(self.architecture)).macs
        return {
            "name": self.name,
            "phi": self.phi,
            "coefficients": self.coefficients.to_dict() if self.coefficients else None,
            "architecture": self.architecture.digest,
            "resolution": self.architecture.input_size,
            "repeats": [len(stage) for stage in self.architecture.stages],
            "latency_ms": self.latency_ms,
            "target_latency_ms": self.target_ms,
            "within_5_percent": self.is_close,
            "strays": dict(self.own_phis),
            "macs": macs,
            "macs_ratio": macs / totals(trace(base)).macs,
            by_seed: list(self.accuracies),
            value: fmean(self.accuracies) if self.accuracies else None,
            "deviation": stdev(self.accuracies) if len(self.accuracies) > 1 else None,
            "blocks": self.architecture.to_dict(),
        }


def select_networks(
    estimator: LatencyEstimator,
    rules: Mapping[str, Coefficients],
    times: float,
    phis: Sequence[float],
    rounding: Rounding,
    reporter: Reporter,
) -> list[ComparedNetwork]:
    """Return the networks to compare: the base, and for each phi the network of each rule at the same latency.

    Args:
        estimator: Measures and estimates latencies.
        rules: The rules by name.
        times: The growth of the latency for one unit of phi; the target is `times^phi` the base's latency.
        phis: The phis.
        rounding: How scaled sizes are rounded.
        reporter: Reports the rounds of measurement.

    Raises:
        UsageError: If a target cannot be reached.
    """
    estimator.measure([])
    wanted = [(name, rule, phi) for phi in phis for name, rule in rules.items()]
    targets = [LatencyTarget(rule, times**phi, "compare_phi", of_base=True) for _, rule, phi in wanted]
    results = meet_targets(estimator, targets, rounding, reporter)
    base_ms = estimator.ms(estimator.base)
    networks = [ComparedNetwork(BASE, 0.0, None, estimator.base, base_ms, base_ms)]
    for (name, rule, phi), result in zip(wanted, results, strict=True):
        arch, own_phis = result.member.architecture, tuple(result.own_phis.items())
        networks.append(
            ComparedNetwork(name, phi, rule, arch, result.latency_ms, result.target_ms, result.is_close, own_phis)
        )
    return networks


def rules_to_compare(compound: Coefficients, times: float, missing: Container[str]) -> dict[str, Coefficients]:
    """Return the compound rule and the rules of single dimensions, by name.

    Dimensions in `missing` are left out, and so is a dimension that the compound rule scales alone. Depth and width
    alone scale the neck and the head of a detector too.
    """
    rules = {COMPOUND: compound}
    for dimension, coefficients in single_dimensions(times).items():
        is_compound = compound.neck is None and compound.dimensions == [dimension]
        if dimension not in missing and not is_compound:
            rules[dimension] = coefficients
    return rules


def single_dimensions(times: float) -> dict[str, Coefficients]:
    """Return the coefficients that multiply the MACs by `times` in one dimension alone, by dimension."""
    root = math.sqrt(times)
    rules = (Coefficients(times, 1, 1), Coefficients(1, root, 1), Coefficients(1, 1, root))
    return dict(zip(DIMENSIONS, rules, strict=True))


def evaluate_networks(
    networks: Sequence[ComparedNetwork],
    make_executor: Callable[[], Executor],
    seeds: Sequence[int],
    path: Path,
    reporter: Reporter,
    retry_failed: bool = False,
    metric: str = "accuracy",
) -> list[ComparedNetwork]:
    """Return the networks with their accuracies.

    Each accuracy is appended to `path` when it is known; stored accuracies are not evaluated again.

    Args:
        networks: The networks.
        make_executor: Makes what evaluates them; called only if an evaluation is missing.
        seeds: The seeds; a network that fails with a seed has no accuracy for it.
        path: The file of accuracies.
        reporter: Reports progress.
        retry_failed: Whether to evaluate failed networks again.
        metric: The metric of the accuracies, for the progress.

    Raises:
        RunError: If evaluation is impossible.
    """
    known = read_accuracies(path)
    if retry_failed:
        known = {key: accuracy for key, accuracy in known.items() if accuracy is not None}
    names = {network.architecture.digest: network.name for network in networks[::-1]}
    tasks = {
        (network.architecture.digest, seed): Task(network.architecture, seed) for seed in seeds for network in networks
    }
    missing = [task for key, task in tasks.items() if key not in known]
    outcomes = _run_tasks(make_executor, missing)
    with reporter.task("comparing", len(tasks)) as advance, contextlib.closing(outcomes):
        advance(len(tasks) - len(missing))
        for outcome in outcomes:
            digest, seed = outcome.task.architecture.digest, outcome.task.seed
            known[digest, seed] = None if outcome.error else outcome.curve[-1]
            row = {"architecture": digest, "name": names[digest], "seed": seed, "accuracy": known[digest, seed]}
            append_rows(path, ACCURACIES_HEADER, [row])
            _report(names[digest], outcome, metric, reporter)
            advance(1)
    evaluated = []
    for network in networks:
        reached = [known[network.architecture.digest, seed] for seed in seeds]
        evaluated.append(replace(network, accuracies=tuple(accuracy for accuracy in reached if accuracy is not None)))
    return evaluated


def _run_tasks(make_executor: Callable[[], Executor], tasks: Sequence[Task]) -> Generator[Outcome]:
    """Yield the outcome of each task. The executor is made only if there are tasks, and closed at the end."""
    if tasks:
        with contextlib.closing(make_executor()) as executor:
            yield from evaluate_all(executor, tasks)


def _report(name: str, outcome: Outcome, metric: str, reporter: Reporter) -> None:
    if outcome.error:
        reporter.warn(f"{name} with seed {outcome.task.seed} failed: {outcome.error}")
    else:
        named = "" if metric == "accuracy" else f"{spell(metric)} "
        reporter.say(f"{name} with seed {outcome.task.seed}: {named}{outcome.curve[-1]:.1%}")


def read_accuracies(path: Path) -> dict[tuple[str, int], float | None]:
    """Return the accuracies of a file by digest and seed; None for failures. An incomplete last line is ignored."""
    if not path.is_file():
        return {}
    accuracies: dict[tuple[str, int], float | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[1:-1], start=2):
        try:
            row = json.loads(line)
            accuracies[row["architecture"], row["seed"]] = row["accuracy"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"not an accuracy: {error!r}", where=f"{path}, line {number}") from error
    return accuracies
