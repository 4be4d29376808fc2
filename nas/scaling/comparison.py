"""Compound against single dimensions: networks of the same measured latency, evaluated with the same seeds."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.executors.base import Executor, Outcome, Task, evaluate_all
from nas.networks.network import totals, trace
from nas.scaling.family import BASE
from nas.scaling.latency_targets import LatencyEstimator, LatencyTarget, meet
from nas.scaling.presets import Coefficients
from nas.scaling.scale import DIMENSIONS, Rounding
from nas.utils.files import append_rows
from nas.utils.reporting import Reporter

COMPOUND = "compound"
FORMAT = {"format": 1, "rows": "accuracies of scaled networks"}


@dataclass(frozen=True)
class Entry:
    """A network that is compared, with the accuracy of each seed; `strays` as in `nas.scaling.latency_targets.Met`.

    It takes `times^phi` the base's latency, whatever its rule's own phi for that is.
    """

    name: str
    phi: float
    coefficients: Coefficients | None
    architecture: Architecture
    latency_ms: float
    target_ms: float
    is_close: bool = True
    strays: tuple[tuple[str, float], ...] = ()
    accuracies: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Entry:
        """Return the entry that `to_dict` gave, without accuracies."""
        found = data["coefficients"]
        return cls(
            data["name"], data["phi"], Coefficients(**found) if found else None, Architecture.from_dict(data["blocks"]),
            data["latency_ms"], data["target_latency_ms"], data["within_5_percent"], tuple(data["strays"].items()),
        )  # fmt: skip

    def to_dict(self, base: Architecture) -> dict[str, Any]:
        """Return what a result tells."""
        macs = totals(trace(self.architecture)).macs
        return {
            "name": self.name,
            "phi": self.phi,
            "coefficients": asdict(self.coefficients) if self.coefficients else None,
            "architecture": self.architecture.digest,
            "resolution": self.architecture.resolution,
            "repeats": [len(stage) for stage in self.architecture.stages],
            "latency_ms": self.latency_ms,
            "target_latency_ms": self.target_ms,
            "within_5_percent": self.is_close,
            "strays": dict(self.strays),
            "macs": macs,
            "macs_ratio": macs / totals(trace(base)).macs,
            "accuracies": list(self.accuracies),
            "accuracy": fmean(self.accuracies) if self.accuracies else None,
            "deviation": stdev(self.accuracies) if len(self.accuracies) > 1 else None,
            "blocks": self.architecture.to_dict(),
        }


def contestants(
    scout: LatencyEstimator, rules: Mapping[str, Coefficients], times: float, phis: Sequence[float], rounding: Rounding,
    reporter: Reporter,
) -> list[Entry]:  # fmt: skip
    """Return the base, and the network of each rule that takes `times^phi` the base's latency, for each phi."""
    scout.look([])
    asked = [(name, rule, phi) for phi in phis for name, rule in rules.items()]
    met = meet(
        scout,
        [LatencyTarget(rule, times**phi, "--compare-phi", of_base=True) for _, rule, phi in asked],
        rounding,
        reporter,
    )
    found = [Entry(BASE, 0.0, None, scout.base, scout.ms(scout.base), scout.ms(scout.base))]
    for (name, rule, phi), each in zip(asked, met, strict=True):
        strays = tuple(each.strays.items())
        arch = each.member.architecture
        found.append(Entry(name, phi, rule, arch, each.latency_ms, each.target_ms, each.is_close, strays))
    return found


def compared_rules(compound: Coefficients, times: float, missing: Container[str]) -> dict[str, Coefficients]:
    """Return the rule that was found and those of single dimensions, but for what the network does not have.

    A rule of one dimension alone is not compared with that dimension.
    """
    rules = {COMPOUND: compound}
    for dimension, coefficients in single_dimensions(times).items():
        if dimension not in missing and compound.dimensions != [dimension]:
            rules[dimension] = coefficients
    return rules


def single_dimensions(times: float) -> dict[str, Coefficients]:
    """Return the coefficients that put all growth of the MACs into one dimension."""
    root = math.sqrt(times)
    return dict(
        zip(DIMENSIONS, (Coefficients(times, 1, 1), Coefficients(1, root, 1), Coefficients(1, 1, root)), strict=True)
    )


def compare(
    entries: Sequence[Entry], make: Callable[[], Executor], seeds: Sequence[int], path: Path, reporter: Reporter,
    retry_failed: bool = False,
) -> list[Entry]:  # fmt: skip
    """Return the entries with the accuracy of each seed; every one is written when it is known, and not made again.

    What `make` makes evaluates them. A network that cannot be evaluated with a seed has no accuracy of it, and is
    tried again only if that is asked for. Raises RunError where nothing can be evaluated.
    """
    known = read_accuracies(path)
    if retry_failed:
        known = {key: accuracy for key, accuracy in known.items() if accuracy is not None}
    names = {entry.architecture.digest: entry.name for entry in entries[::-1]}
    asked = {(entry.architecture.digest, seed): Task(entry.architecture, seed) for seed in seeds for entry in entries}
    missing = [task for key, task in asked.items() if key not in known]
    outcomes = evaluated(make, missing)
    with reporter.task("comparing", len(asked)) as advance, contextlib.closing(outcomes):
        advance(len(asked) - len(missing))
        for outcome in outcomes:
            key = (outcome.task.architecture.digest, outcome.task.seed)
            known[key] = None if outcome.error else outcome.curve[-1]
            row = {"architecture": key[0], "name": names[key[0]], "seed": key[1], "accuracy": known[key]}
            append_rows(path, FORMAT, [row])
            _say(names[key[0]], outcome, reporter)
            advance(1)
    found = []
    for entry in entries:
        reached = [known[entry.architecture.digest, seed] for seed in seeds]
        found.append(replace(entry, accuracies=tuple(accuracy for accuracy in reached if accuracy is not None)))
    return found


def evaluated(make: Callable[[], Executor], tasks: Sequence[Task]) -> Generator[Outcome]:
    """Yield what becomes of each task; an executor is made only if there is any, and closed."""
    if tasks:
        with contextlib.closing(make()) as executor:
            yield from evaluate_all(executor, tasks)


def _say(name: str, outcome: Outcome, reporter: Reporter) -> None:
    if outcome.error:
        reporter.warn(f"{name} with seed {outcome.task.seed} failed: {outcome.error}")
    else:
        reporter.say(f"{name} with seed {outcome.task.seed}: {outcome.curve[-1]:.1%}")


def read_accuracies(path: Path) -> dict[tuple[str, int], float | None]:
    """Return the accuracies of a file by digest and seed; a last line that a crash cut off is left out."""
    if not path.is_file():
        return {}
    found: dict[tuple[str, int], float | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[1:-1], start=2):
        try:
            row = json.loads(line)
            found[row["architecture"], row["seed"]] = row["accuracy"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}, line {number}: not an accuracy: {error!r}") from error
    return found
