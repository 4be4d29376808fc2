"""`nas scale`: compound scaling."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.flags import NUMBER, REAL, SWITCH, TEXT, Flags, add_groups, flags_of
from nas.searching.settings import SearchSettings
from nas.utils.reporting import Reporter

HELP = "scale a network's depth, width and resolution: by a rule, to given latencies, or by a search for the rule"
MOST_USED = ("preset", "phi", "latency", "measure", "search", "budget", "data", "device", "runtime", "run", "seed")
"""The flags that `--help` shows; `--help-all` shows all."""
EXAMPLES = ("nas scale efficientnet_b0 --preset efficientnet", "nas scale runs/a --latency 5ms,10ms")

LIST: dict[str, Any] = {"metavar": "A,B"}
FRACTION: dict[str, Any] = {"type": float, "metavar": "X"}
RULE: Flags = {
    "coefficients": (
        {"metavar": "A,B,G"},
        "alpha,beta,gamma: factors of depth, width and resolution for each phi; of a detector also a fourth, of the "
        "channels of its neck",
    ),
    "preset": (TEXT, "a published rule or family, see `nas list presets` (default: EfficientNet's 1.2,1.1,1.15)"),
    "phi": (LIST, "scale to these phis: 0..7 or 0,1,2.5 (default: 0..3)"),
    "latency": (LIST, "scale to just below these latencies, measured on the device: 5ms,10ms"),
    "depth": (LIST, "factors for the number of repeats, instead of a rule"),
    "width": (LIST, "factors for the number of channels, instead of a rule"),
    "resolution": (LIST, "input resolutions in pixels, instead of a rule"),
    "measure": (SWITCH, "measure the family's latencies on the device"),
}
ROUNDING: Flags = {
    "divisor": (NUMBER, "round channels to multiples of N (default: 8)"),
    "repeats": (TEXT, "round repeats up (ceil, default) or to the nearest (round)"),
    "resolution-step": (NUMBER, "round the input to multiples of N pixels (default: about 2 %% of the base's input)"),
    "head": (TEXT, "last channels of the head: scaled (default), never-narrower or fixed"),
}
SEARCH: Flags = {
    "search": (SWITCH, "search for the coefficients: evaluate a grid of them at phi 1"),
    "budget": (TEXT, "budgeted resource: latency (default), macs or activations"),
    "times": (FRACTION, "budget at phi = 1, relative to the base (default: 2)"),
    "tolerance": (FRACTION, "relative deviation from the budget that grid points may have (default: 0.1)"),
    "step": (FRACTION, "step between coefficients in the grid (default: 0.1)"),
    "exponent": (REAL, "w in the reward ACC * (COST/T)^w of the soft objective (default: -0.07)"),
    "compare-phi": (LIST, "phis at which the rule is compared with single dimensions (default: 1)"),
    "compare-seeds": (NUMBER, "seeds of the comparison (default: 1; 0 disables it)"),
}


GROUPS: dict[str, Flags] = {
    "the family": RULE,
    "rounding": ROUNDING,
    "the device": {
        **flags_of(SearchSettings, "runtime", "threads", "device"),
        "table": (TEXT, "predict latencies with a latency table instead of measuring them"),
    },
    "the coefficient search": {
        **SEARCH,
        **flags_of(SearchSettings, "data", "data_root", "fit", "flip", "task"),
        "objective": (TEXT, "soft (default), hard or constrained"),
        "controller": (TEXT, "exhaustive (default: all points in random order), or another of `nas list controllers`"),
        "trials": (NUMBER, "grid points to evaluate (default: 12; 0 for all within the budget)"),
        **flags_of(SearchSettings, "seed", "evaluator", "accuracies", "proxy_resolution", "proxy_epochs",
                   "proxy_images", "metric", "class_weights", "finalists", "finalist_seeds", "workers",
                   "trial_timeout", "retry_failed",
                   defaults=dict.fromkeys(("proxy_resolution", "proxy_epochs", "proxy_images"), "")),
    },
    "the run": {
        "run": ({"metavar": "DIR"}, "run folder; rerun the same command to resume (default: runs/scale-ARCH[-DATA])"),
    },
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to a parser."""
    parser.add_argument("network", metavar="ARCH", help="a network's name, a YAML or JSON file, or a run folder")
    add_groups(parser, GROUPS)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the result of the family or of the coefficient search."""
    from nas.scaling.coefficient_search import run_scale_search
    from nas.scaling.family_job import run_family
    from nas.scaling.settings import make_scale_settings

    settings = make_scale_settings({key: value for key, value in vars(args).items() if value is not None})
    return run_scale_search(settings, reporter) if settings.search else run_family(settings, reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the coefficients, the rounding and a table of the family; of a search also its best and its comparison."""
    from rich.console import Console

    from nas.scaling.presets import Coefficients

    console = Console(highlight=False)
    if "search" in result:
        _print_search(result, console)
    if result["coefficients"]:
        coefficients = ", ".join(f"{key} {value:.4g}" for key, value in result["coefficients"].items())
        if "alpha" in result["coefficients"]:
            found = Coefficients(**result["coefficients"])
            of = "the MACs" if found.neck is None else "the backbone's MACs"
            coefficients += f"; {found.growth:.3g} times {of} for each phi"
        console.print(f"rule          {result['rule']}: {coefficients}")
        if "search" in result:
            console.print(f"reuse         --coefficients {found.text}")
    rounding = result["rounding"]
    console.print(
        f"rounding      channels to multiples of {rounding['divisor']}, repeats by {rounding['repeats']}, "
        f"input to multiples of {rounding['resolution_step']} px, head {rounding['head']}"
        + (", stem and the repeats of both ends fixed" if rounding.get("ends") == "fixed" else "")
    )
    for dimension, reason in result["missing_dimensions"].items():
        console.print(f"no {dimension:<10} {reason}")
    if result["family"]:
        _print_family(result["family"], console)
    console.print(f"networks      {Path(result['family'][0]['file']).parent}")
    console.print(f"picture       {result['picture']}")


def _print_family(family: list[dict[str, Any]], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nas.utils.units import format_count, format_latency

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    is_timed = any(entry["latency_ms"] for entry in family)
    for title in ("name", "d", "w", "px"):
        table.add_column(title, no_wrap=True)
    for title in ("params", "MACs", "x base", "by rule", *(["latency"] if is_timed else [])):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("repeats", overflow="fold")
    for entry in family:
        factors, latency = entry["factors"], entry["latency_ms"]
        cells = [
            entry["name"], f"{factors['depth']:.3g}", f"{factors['width']:.3g}", str(entry["resolution"]),
            format_count(entry["params"]), format_count(entry["macs"]),
            f"{entry['macs_ratio']:.2f}", f"{entry['growth']:.2f}",
        ]  # fmt: skip
        if is_timed:
            cells.append(f"{format_latency(latency)}{_verdict(entry)}" if latency else "")
        table.add_row(*cells, "-".join(map(str, entry["repeats"])) + _neck_and_head(entry.get("detector") or {}))
    console.print(table, highlight=True)
    for entry in family:
        for note in _notes(entry):
            console.print(f"{entry['name']}: {note}", soft_wrap=True)


def _verdict(entry: dict[str, Any]) -> str:
    return "" if entry.get("target_latency_ms") is None or entry["holds_target"] else " OVER"


def _neck_and_head(sizes: dict[str, int | None]) -> str:
    """Return those sizes of neck and head that the network has, such as ", neck 3 x 64, head 3"."""
    neck = [str(sizes[key]) for key in ("neck_cells", "neck_channels") if sizes.get(key)]
    parts = [f", neck {' x '.join(neck)}"] if neck else []
    return "".join([*parts, *([f", head {sizes['head_layers']}"] if sizes.get("head_layers") else [])])


def _notes(entry: dict[str, Any]) -> list[str]:
    """Return remarks on a network: what differs from the rule, a missed target, or an equal network."""
    leaves = [f"{key} {own} instead of {by_rule}" for key, (own, by_rule) in entry.get("deviations", {}).items()]
    notes = [f"leaves the rule: {', '.join(leaves)}"] if leaves else []
    notes += [f"{dimension} is scaled with phi {phi:.3g}" for dimension, phi in entry.get("strays", {}).items()]
    if entry.get("within_5_percent") is False and entry["holds_target"]:
        notes.append("the rule has no network closer to the target")
    return [*notes, *([f"rounds to the same network as {entry['same_as']}"] if entry["same_as"] else [])]


def _print_search(result: dict[str, Any], console: Any) -> None:
    from nas.training.tasks.metrics import spell, value_keys
    from nas.utils.units import format_latency

    search = result["search"]
    metric = search.get("metric", "accuracy")
    named = "" if metric == "accuracy" else f"{spell(metric)} "
    value, by_seed = value_keys(metric)
    budget = search["budget"]
    target = f", {format_latency(budget['target'])}" if budget["resource"] == "latency" else ""
    best = next(entry for entry in search["candidates"] if entry["architecture"] == search["best"])
    lines = [
        f"searched      {search['trials']} of {search['admissible']} grid points within {budget['times']:g} times the "
        f"base's {budget['resource']}{target} ({search['grid']} points in all, {search['timed']} timed); "
        f"objective {search['objective']}",
        f"best          {spell(metric)} {best['estimate']:.1%} estimated, {best[value]:.1%} with the search's seed",
        *(["compared at the same measured latency, with new seeds:"] if result["comparison"] else []),
    ]
    most = max((len(entry[by_seed]) for entry in result["comparison"]), default=0)
    for entry in result["comparison"]:
        name, count = f"{entry['name']} {entry['phi']:g}".ljust(13), len(entry[by_seed])
        spread = "" if entry["deviation"] is None else f" +- {entry['deviation']:.1%}"
        accuracy = "evaluation failed" if entry[value] is None else f"{named}{entry[value]:.1%}{spread}"
        notes = [f"{format_latency(entry['latency_ms'])}", f"{entry['macs_ratio']:.2f} times the MACs"]
        notes += [] if entry["within_5_percent"] else ["not within 5 % of the target"]
        notes += [f"{count} of {most} seeds"] if 0 < count < most else []
        lines.append(f"{name} {accuracy}, {', '.join(notes)}")
    for line in lines:
        console.print(line)
