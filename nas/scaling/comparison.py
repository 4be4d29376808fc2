"""Compound against single dimensions: networks of the same measured latency, evaluated with the same seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError, reason
from nas.files import append_rows
from nas.network import totals, trace
from nas.progress import Reporter
from nas.scaling.presets import Coefficients
from nas.scaling.rules import DIMENSIONS, Rounding
from nas.scaling.settings import to_dict
from nas.scaling.targets import Scout, Want, meet

Evaluate = Callable[[Architecture, int], Iterator[float]]
BASE, COMPOUND = "base", "compound"
FORMAT = {"format": 1, "rows": "accuracies of scaled networks"}


@dataclass(frozen=True)
class Entry:
    """A network that is compared, with the accuracy of each seed; `strays` as in `nas.scaling.targets.Met`."""

    name: str
    coefficients: Coefficients | None
    architecture: Architecture
    latency_ms: float
    is_close: bool = True
    strays: tuple[tuple[str, float], ...] = ()
    accuracies: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Entry:
        """Return the entry that `to_dict` gave, without accuracies."""
        found = data["coefficients"]
        return cls(
            data["name"], Coefficients(**found) if found else None, Architecture.from_dict(data["blocks"]),
            data["latency_ms"], data["within_5_percent"], tuple(data["strays"].items()),
        )  # fmt: skip

    def to_dict(self, base: Architecture) -> dict[str, Any]:
        """Return what a result tells."""
        macs = totals(trace(self.architecture)).macs
        return {
            "name": self.name,
            "coefficients": to_dict(self.coefficients) if self.coefficients else None,
            "architecture": self.architecture.digest,
            "resolution": self.architecture.resolution,
            "repeats": [len(stage) for stage in self.architecture.stages],
            "latency_ms": self.latency_ms,
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
    scout: Scout, compound: Coefficients, times: float, missing: Sequence[str], rounding: Rounding, reporter: Reporter
) -> list[Entry]:
    """Return the base, and of compound and each single dimension the network of `times` the base's latency."""
    scout.look([])
    target_ms = times * scout.ms(scout.base)
    rules = {COMPOUND: compound}
    for dimension, coefficients in single_dimensions(times).items():
        if dimension not in missing and coefficients != compound:
            rules[dimension] = coefficients
    met = meet(scout, [Want(rule, target_ms) for rule in rules.values()], rounding, reporter)
    found = [Entry(BASE, None, scout.base, scout.ms(scout.base))]
    for (name, rule), each in zip(rules.items(), met, strict=True):
        strays = tuple(each.strays.items())
        found.append(Entry(name, rule, each.member.architecture, each.latency_ms, each.is_close, strays))
    return found


def single_dimensions(times: float) -> dict[str, Coefficients]:
    """Return the coefficients that put all growth of the MACs into one dimension."""
    root = math.sqrt(times)
    return dict(
        zip(DIMENSIONS, (Coefficients(times, 1, 1), Coefficients(1, root, 1), Coefficients(1, 1, root)), strict=True)
    )


def compare(
    entries: Sequence[Entry], evaluate: Evaluate, seeds: Sequence[int], path: Path, reporter: Reporter
) -> list[Entry]:
    """Return the entries with the accuracy of each seed; every one is written when it is known, and not made again.

    A network that cannot be evaluated has no accuracies.
    """
    known = read_accuracies(path)
    with reporter.task("comparing", len(entries) * len(seeds)) as advance:
        for seed in seeds:
            for entry in entries:
                key = (entry.architecture.digest, seed)
                if key not in known:
                    known[key] = _evaluated(entry, evaluate, seed, reporter)
                    row = {"architecture": key[0], "name": entry.name, "seed": seed, "accuracy": known[key]}
                    append_rows(path, FORMAT, [row])
                advance(1)
    found = []
    for entry in entries:
        reached = [known[entry.architecture.digest, seed] for seed in seeds]
        found.append(replace(entry, accuracies=tuple(accuracy for accuracy in reached if accuracy is not None)))
    return found


def _evaluated(entry: Entry, evaluate: Evaluate, seed: int, reporter: Reporter) -> float | None:
    accuracy = None
    try:
        for accuracy in evaluate(entry.architecture, seed):  # noqa: B007 (the last one counts)
            pass
    except RunError:
        raise
    except Exception as error:
        reporter.warn(f"{entry.name} with seed {seed} failed: {reason(error)}")
        return None
    outcome = f"{accuracy:.1%}" if accuracy is not None else "no accuracy"
    reporter.say(f"{entry.name} with seed {seed}: {outcome}")
    return accuracy


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
