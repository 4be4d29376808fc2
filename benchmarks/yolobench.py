"""How many evaluations a search among the 572 detectors of YOLOBench needs, and their Pareto front.

    python -m benchmarks.yolobench [--metric AP] [--data coco] [--device raspi4_tflite nano_gpu]
        [--target-latency 100ms ...] [--controllers surrogate tpe evolution random] [--seeds 20] [--plot yolobench.png]

YOLOBench (Lazarevich et al. 2023, arXiv 2307.13901) is a table: average precision on four data sets and latency on
eight devices, by family, depth, width and input size. Our blocks cannot build its networks, so `nas search` cannot
search it. This replays a search instead: our controllers know the latency column, are told the metric of each network
that they evaluate, and never ask for one beyond the target or for one twice, as in `nas search --objective
constrained`. An evaluation is one look into the table.

Printed for each target: the mean number of evaluations until the best network so far is within 0.5 points of the best
one within the target, with the standard deviation over seeds, and how many seeds arrive within 40 evaluations. Runs of
a slow controller end after 40 (SLOW) and then count as 40: a mean with ">=" is a lower bound. "slowest first" needs no
controller: it looks at the networks from the target downwards. The controllers have their defaults. Needs
../shared/bench.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_methods import controller
from benchmarks.search_problems import BENCH, SearchProblem
from nas.architecture import Scalar
from nas.controllers import CONTROLLERS
from nas.errors import DataError, NasError, UsageError
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Floats, Indices
from nas.study.objectives import Constrained, within
from nas.study.pareto import nondominated
from nas.utils.registry import lookup, nearest
from nas.utils.units import format_latency, parse_latency

TABLE = BENCH / "yolobench" / "merged_results.csv"
METRICS = {"AP": "mAP_0.5:0.95", "AP50": "mAP_0.5"}
TARGETS = {"raspi4_tflite": ("100ms", "500ms"), "nano_gpu": ("33ms", "100ms")}
"""The devices and their targets without flags: 10 and 2 frames per second, 30 and 10 frames per second."""
REACHED = 0.005
"""A search has arrived where its best network is within this of the best one within the target."""
FEW = 40
SLOW = {"tpe": FEW}
"""Evaluations of controllers whose proposals take long. TPE soon proposes again what it has tried, many times over."""
SIZES = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}
"""Depth and width of the sizes that have a letter (deeplite-torch-zoo, DEFAULT_MODEL_SCALES; all families agree)."""
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:cyan")
NAME = re.compile(r"(yolo\d+(?:[a-z](?=-))?)-?(?:d(1|\d\d?)w(1|\d\d?)|([nsml]))_(\d+)")


@dataclass(frozen=True)
class Detector:
    """One network of the table: "yolo3d1w25_160" is YOLOv3 of depth 1 and width 0.25 at 160 px."""

    family: str
    depth: float
    width: float
    resolution: int

    @classmethod
    def parse(cls, name: str, where: str = "") -> Detector:
        """Return the network that a name spells. Raises DataError."""
        if (match := NAME.fullmatch(name)) is None:
            raise DataError("must be like 'yolo3d1w25_160' or 'yolo5n_160'", where=where, key="model_name", value=name)
        family, depth, width, size, resolution = match.groups()
        scales = SIZES[size] if size else (_fraction(depth), _fraction(width))
        return cls(family, *scales, int(resolution))

    def choices(self) -> dict[str, Scalar]:
        """Return the choices of a controller. Each family has depths of its own, and each of these its widths.

        The table does not have every combination; in this way, every candidate is one of its rows.
        """
        depth = f"{self.family}.depth"
        width = f"{depth}{self.depth:g}.width"
        return {"family": self.family, "resolution": self.resolution, depth: self.depth, width: self.width}


@dataclass(frozen=True)
class Detectors:
    """The rows of the table: N networks with their metric in [0, 1], (N,), and their latency on one device, (N,)."""

    networks: tuple[Detector, ...]
    accuracy: Floats
    latency_ms: Floats

    def best(self, limit_ms: float) -> int:
        """Return the index of the best network within a limit. Raises UsageError if none is."""
        inside = within(self.latency_ms, limit_ms)
        if not inside.any():
            least = f"; the fastest network takes {format_latency(float(self.latency_ms.min()))}"
            raise UsageError("no network is as fast", key="target_latency", value=f"{limit_ms:g}ms", nearest=least)
        return int(np.where(inside, self.accuracy, -1.0).argmax())

    def front(self) -> list[int]:
        """Return the indices of the Pareto front, fastest first."""
        found = nondominated(np.stack([self.accuracy, -self.latency_ms], axis=1))
        return sorted(found, key=lambda at: float(self.latency_ms[at]))


def read_detectors(path: Path, metric: str, data: str, device: str) -> Detectors:
    """Read one metric on one data set, and the latency on one device. Raises DataError or UsageError."""
    prefix = lookup(METRICS, metric, "metric", "--metric")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=path) from error
    if not lines:
        raise DataError("contains no rows", where=path)
    columns = [name for name in lines[0] if name]
    if "model_name" not in columns:
        raise DataError("has no column 'model_name'", where=path)
    accuracy = _column(columns, f"{prefix}_", "", data, "data")
    latency = _column(columns, "", "_latency", device, "device")
    places = [f"{path}, row {number}" for number in range(2, len(lines) + 2)]
    names = zip(lines, places, strict=True)
    return Detectors(
        tuple(Detector.parse(line["model_name"] or "", place) for line, place in names),
        np.array([_number(line, accuracy, place, 1.0) for line, place in zip(lines, places, strict=True)]),
        np.array([_number(line, latency, place, np.inf) for line, place in zip(lines, places, strict=True)]),
    )


def _fraction(digits: str) -> float:
    """Return the number that "1", "67" or "5" stands for: 1, 0.67, 0.5."""
    return 1.0 if digits == "1" else float(f"0.{digits}")


def _column(columns: Iterable[str], prefix: str, suffix: str, name: str, key: str) -> str:
    """Return the column of a data set or a device."""
    found = {
        column.removeprefix(prefix).removesuffix(suffix): column
        for column in columns
        if column.startswith(prefix) and column.endswith(suffix)
    }
    if name not in found:
        raise UsageError("not in the table", key=key, value=name, nearest=nearest(name, found))
    return found[name]


def _number(line: Mapping[str, str | None], column: str, place: str, most: float) -> float:
    """Return a cell above 0 and at most `most`."""
    try:
        value = float(line[column] or "")
    except ValueError:
        value = float("nan")
    if not 0 < value <= most or value == np.inf:
        rule = "must be a positive number" if most == np.inf else f"must be above 0 and at most {most:g}"
        raise DataError(rule, where=place, key=column, value=line[column])
    return value


def encode_detectors(detectors: Detectors) -> EncodedSpace:
    """Return the rows of the table as candidates. Raises DataError if one is missing or occurs twice."""
    values: dict[str, set[Any]] = {}
    conditions: dict[str, tuple[tuple[str, frozenset[Scalar]], ...]] = {}
    for network in detectors.networks:
        chosen = network.choices()
        for key, value in chosen.items():
            values.setdefault(key, set()).add(value)
        _, _, depth, width = chosen
        conditions[depth] = (("family", frozenset({network.family})),)
        conditions[width] = ((depth, frozenset({network.depth})),)
    place: dict[bytes, int] = {}

    def facts(rows: Indices) -> CandidateCosts:
        at = np.array([place[row.tobytes()] for row in rows], np.intp)
        return CandidateCosts(at, detectors.latency_ms[at], np.zeros((len(rows), 0)))

    domain = EncodedSpace({key: tuple(sorted(found)) for key, found in values.items()}, facts, conditions)
    for at, network in enumerate(detectors.networks):
        if place.setdefault(domain.encode(network.choices()).tobytes(), at) != at:
            raise DataError("the table has this network twice", value=str(network))
    if domain.size != len(place):
        raise DataError(f"has {len(place)} of {domain.size} networks: each needs every resolution", key="model_name")
    return domain


def make_problem(detectors: Detectors, limit_ms: float) -> SearchProblem:
    """Return the search for the best network within a limit in ms."""
    domain = encode_detectors(detectors)

    def accuracy(rows: Indices, seed: int = 0) -> Floats:
        return np.asarray(detectors.accuracy[domain.facts(rows).keys])

    best = float(detectors.accuracy[detectors.best(limit_ms)])
    return SearchProblem("yolobench", domain, accuracy, accuracy, limit_ms, best)


def evaluations(problem: SearchProblem, name: str, seed: int, budget: int) -> int | None:
    """Return after how many evaluations a controller arrives, or None if it does not within the budget."""
    objective = Constrained(problem.limit)
    asked = controller(name, True, problem, objective, seed)
    row = next(asked)
    for number in range(1, budget + 1):
        accuracy = problem.evaluate(row[None], seed)
        score = objective.scores(accuracy, problem.domain.facts(row[None]).latency_ms)
        if score[0] >= problem.best - REACHED:
            return number
        if number < budget:
            row = asked.send(float(accuracy[0]))
    return None


def slowest_first(detectors: Detectors, limit_ms: float) -> int:
    """Return after how many evaluations one arrives that looks at the slowest networks within the limit first."""
    inside = np.flatnonzero(within(detectors.latency_ms, limit_ms))
    order = inside[np.argsort(-detectors.latency_ms[inside], kind="stable")]
    return int(np.flatnonzero(_arrived(detectors, limit_ms)[order])[0]) + 1


def _arrived(detectors: Detectors, limit_ms: float) -> NDArray[np.bool_]:
    """Return which networks are within the limit and within REACHED of the best one, (N,)."""
    enough = detectors.accuracy >= detectors.accuracy[detectors.best(limit_ms)] - REACHED
    return np.asarray(enough & within(detectors.latency_ms, limit_ms))


def spelled(needed: Sequence[int | None], budget: int) -> str:
    """Return the mean and the standard deviation over seeds, and how many seeds arrive within FEW evaluations."""
    counted = np.array([budget if number is None else number for number in needed])
    deviation = counted.std(ddof=1) if len(counted) > 1 else float("nan")
    soon = sum(number is not None and number <= FEW for number in needed)
    return f"{'>= ' if None in needed else ''}{counted.mean():.1f} ± {deviation:.1f} ({soon})"


def report(detectors: Detectors, limit_ms: float, names: Sequence[str], seeds: int) -> str:
    """Run one target and return its row of the table."""
    best, problem = detectors.best(limit_ms), make_problem(detectors, limit_ms)
    inside, arrived = within(detectors.latency_ms, limit_ms).sum(), _arrived(detectors, limit_ms).sum()
    cells = [
        str(inside),
        f"{100 * detectors.accuracy[best]:.1f}",
        str(arrived),
        str(slowest_first(detectors, limit_ms)),
    ]
    for name in names:
        budget = SLOW.get(name, len(detectors.networks))
        cells.append(spelled([evaluations(problem, name, seed, budget) for seed in range(seeds)], budget))
    return " | ".join(cells)


def draw(found: Mapping[str, Detectors], limits_ms: Mapping[str, Sequence[float]], label: str, path: Path) -> None:
    """Write a picture of the networks and their Pareto front, one plot for each device."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
    lines: dict[str, Any] = {}
    for (device, detectors), axes in zip(found.items(), np.atleast_1d(figure.subplots(1, len(found))), strict=True):
        versions = np.array([network.family[:5] for network in detectors.networks])
        for number, version in enumerate(sorted(set(versions))):
            at = versions == version
            points = detectors.latency_ms[at], 100 * detectors.accuracy[at]
            lines[version] = axes.scatter(*points, s=8, alpha=0.7, linewidth=0, color=COLORS[number % len(COLORS)])
        front = detectors.front()
        points = detectors.latency_ms[front], 100 * detectors.accuracy[front]
        (lines["Pareto front"],) = axes.plot(*points, color="black", linewidth=1, drawstyle="steps-post")
        for limit_ms in limits_ms[device]:
            lines["targets"] = axes.axvline(limit_ms, color="0.6", linewidth=0.8, linestyle="--")
        axes.set(title=device, xlabel="latency, ms", ylabel=f"{label}, %", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), fontsize=8)
    figure.savefig(path, dpi=110)


def run(args: argparse.Namespace) -> None:
    """Print the table and draw the picture. Raises NasError."""
    if args.seeds < 1:
        raise UsageError("must be at least 1", key="seeds", value=args.seeds)
    found, limits_ms = {}, {}
    for device in args.device:
        texts = args.target_latency or TARGETS.get(device)
        if texts is None:
            raise UsageError("this device needs one", key="target_latency", value=device)
        limits_ms[device] = [parse_latency(text) for text in texts]
        found[device] = read_detectors(args.accuracies, args.metric, args.data, device)
    for name in args.controllers:
        factory = lookup(CONTROLLERS, name, "controller", "--controllers")
        if check := getattr(factory, "check", None):
            check(encode_detectors(found[args.device[0]]))
    counted = f"mean evaluations of {args.seeds} seeds ± standard deviation (seeds that arrive within {FEW})"
    print(f"{args.metric} on {args.data}: {counted}\n")
    heads = ["device, target", "networks", "best, %", "that arrive", "slowest first", *args.controllers]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for device, detectors in found.items():
        for limit_ms in limits_ms[device]:
            row = report(detectors, limit_ms, args.controllers, args.seeds)
            print(f"| {device}, {format_latency(limit_ms)} | {row} |", flush=True)
    print()
    for device, detectors in found.items():
        print(f"{device}: {len(detectors.front())} of {len(detectors.networks)} networks are on the Pareto front")
    if args.plot:
        draw(found, limits_ms, f"{args.metric} on {args.data}", args.plot)


def main() -> None:
    """Replay what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracies", type=Path, default=TABLE, help="YOLOBench's merged_results.csv")
    parser.add_argument("--metric", default="AP", help=" or ".join(METRICS))
    parser.add_argument("--data", default="coco", help="coco, voc, sku or wider")
    parser.add_argument("--device", nargs="+", default=list(TARGETS), help="columns, without '_latency'")
    parser.add_argument("--target-latency", nargs="+", help="targets of all these devices, such as 30ms")
    parser.add_argument("--controllers", nargs="*", default=["surrogate", "tpe", "evolution", "random"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--plot", type=Path, help="a picture to write")
    try:
        run(parser.parse_args())
    except NasError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
