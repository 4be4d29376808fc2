"""`nas scale`: compound scaling."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.flags import NUMBER, REAL, SWITCH, TEXT, Flags, add_groups, flags_of
from nas.searching.settings import SearchSettings
from nas.utils.reporting import Reporter

HELP = "scale a network by depth, width and resolution: by a rule, to given latencies, or search for the rule"

LIST: dict[str, Any] = {"metavar": "A,B"}
RULE: Flags = {
    "coefficients": ({"metavar": "A,B,G"}, "alpha, beta, gamma: factors of depth, width, resolution for each phi"),
    "preset": (TEXT, "a published rule or family: see `nas list presets` (default: EfficientNet's 1.2,1.1,1.15)"),
    "phi": (LIST, "the networks of these phi, as 0..7 or 0,1,2.5 (default: 0..3)"),
    "latency": (LIST, "the networks that take just under these latencies, as 5ms,10ms, measured on the device"),
    "depth": (LIST, "by hand: factors of the repeats"),
    "width": (LIST, "by hand: factors of the channels"),
    "resolution": (LIST, "by hand: inputs in pixels"),
    "measure": (SWITCH, "measure the family on the device"),
}
ROUNDING: Flags = {
    "divisor": (NUMBER, "channels are multiples of it (default: 8)"),
    "repeats": (TEXT, "ceil (default) or round"),
    "resolution-step": (NUMBER, "the input is a multiple of it, in pixels (default: about 2 %% of the base's)"),
    "head": (TEXT, "the head's last channels: scaled (default), never-narrower or fixed"),
}
SEARCH: Flags = {
    "search": (SWITCH, "find the coefficients: evaluate a grid of them at phi 1"),
    "budget": (TEXT, "what grows by --times: latency (default), macs or activations"),
    "times": (REAL, "by how much the budget grows from the base's to phi 1 (default: 2)"),
    "tolerance": (REAL, "how far a grid point may be from the budget (default: 0.1)"),
    "step": (REAL, "of the grid's coefficients (default: 0.1)"),
    "exponent": (REAL, "w of the reward ACC * (COST/T)^w of the soft objective (default: -0.07)"),
    "compare-phi": (LIST, "phis at which compound and single dimensions are compared (default: 1)"),
    "compare-seeds": (
        NUMBER,
        "seeds in which base, compound and single dimensions are compared (default: 1; 0: none)",
    ),
}


GROUPS: dict[str, Flags] = {
    "the family": RULE,
    "rounding": ROUNDING,
    "the device": {
        **flags_of(SearchSettings, "runtime", "threads", "device"),
        "table": (TEXT, "a latency table of a device that is not here, which predicts instead"),
    },
    "the search for coefficients": {
        **SEARCH,
        **flags_of(SearchSettings, "data", "data_root"),
        "objective": (TEXT, "soft (default), hard or constrained"),
        "controller": (TEXT, "exhaustive (default): in random order, or another of `nas list controllers`"),
        "trials": (NUMBER, "grid points to evaluate (default: 12; 0: all within the budget)"),
        **flags_of(SearchSettings, "seed", "evaluator", "accuracies", "proxy_resolution", "proxy_epochs",
                   "proxy_images", "finalists", "finalist_seeds", "workers", "trial_timeout", "retry_failed",
                   defaults=dict.fromkeys(("proxy_resolution", "proxy_epochs", "proxy_images"), "")),
    },
    "where": {
        "run": ({"metavar": "DIR"}, "the folder, where the same command goes on (default: runs/scale-ARCH[-DATA])"),
    },
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "network", metavar="ARCH", help="a network's name or YAML, a run's folder, or an architecture's JSON"
    )
    add_groups(parser, GROUPS)


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Return the family, or what the search for its coefficients found."""
    from nas.scaling.coefficient_search import run_scale_search
    from nas.scaling.family_job import run_family
    from nas.scaling.settings import make_job

    job = make_job({key: value for key, value in vars(args).items() if value is not None})
    return run_scale_search(job, reporter) if job.search else run_family(job, reporter)


def print_result(result: dict[str, Any]) -> None:
    """Print the family as a table, and the coefficients where they were searched."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from nas.scaling.presets import Coefficients
    from nas.utils.units import format_count, format_latency

    console = Console()
    if "search" in result:
        _print_search(result, console)
    if result["coefficients"]:
        words = ", ".join(f"{key} {value:.4g}" for key, value in result["coefficients"].items())
        growth = Coefficients(**result["coefficients"]).at(1).growth
        console.print(f"rule          {result['rule']}: {words}; {growth:.3g} times the MACs a phi", highlight=False)
    rounding = result["rounding"]
    console.print(
        f"rounding      channels to {rounding['divisor']}, repeats by {rounding['repeats']}, input to "
        f"{rounding['resolution_step']} px, head {rounding['head']}",
        highlight=False,
    )
    for dimension, why in result["missing_dimensions"].items():
        console.print(f"no {dimension:<10} {why}", highlight=False)
    if result["family"]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        timed = any(entry["latency_ms"] for entry in result["family"])
        for title in ("name", "d", "w", "px"):
            table.add_column(title, no_wrap=True)
        for title in ("params", "MACs", "x base", "by rule", *(["latency"] if timed else [])):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("repeats", overflow="fold")
        for entry in result["family"]:
            factors, latency = entry["factors"], entry["latency_ms"]
            table.add_row(
                entry["name"], f"{factors['depth']:.3g}", f"{factors['width']:.3g}", str(entry["resolution"]),
                format_count(entry["params"]), format_count(entry["macs"]),
                f"{entry['macs_ratio']:.2f}", f"{entry['growth']:.2f}",
                *([f"{format_latency(latency)}{_verdict(entry)}" if latency else ""] if timed else []),
                "-".join(map(str, entry["repeats"])),
            )  # fmt: skip
        console.print(table)
        for entry in result["family"]:
            for note in _notes(entry):
                console.print(f"{entry['name']}: {note}", highlight=False)
    console.print(f"networks      {Path(result['family'][0]['file']).parent}", highlight=False)
    console.print(f"picture       {result['picture']}", highlight=False)


def _verdict(entry: dict[str, Any]) -> str:
    return "" if entry.get("target_latency_ms") is None or entry["holds_target"] else " OVER"


def _notes(entry: dict[str, Any]) -> list[str]:
    """Return what else is to be known of a network: that it is another's, or that a dimension left the rule."""
    notes = [f"{dimension} has phi {phi:.3g}" for dimension, phi in entry.get("strays", {}).items()]
    if entry.get("within_5_percent") is False and entry["holds_target"]:
        notes.append("the rule has no network closer to the target")
    return [*notes, *([f"rounding makes it {entry['same_as']}"] if entry["same_as"] else [])]


def _print_search(result: dict[str, Any], console: Any) -> None:
    from nas.utils.units import format_latency

    search = result["search"]
    budget = search["budget"]
    target = f", {format_latency(budget['target'])}" if budget["resource"] == "latency" else ""
    best = next(entry for entry in search["candidates"] if entry["architecture"] == search["best"])
    lines = [
        f"searched      {search['trials']} of {search['admissible']} grid points within {budget['times']:g} times the "
        f"base's {budget['resource']}{target} (of {search['grid']}, {search['timed']} timed), {search['objective']}",
        f"best          {best['estimate']:.1%} to believe, {best['accuracy']:.1%} with the search's seed",
        *(["at the same measured latency, fresh seeds:"] if result["comparison"] else []),
    ]
    most = max((len(entry["accuracies"]) for entry in result["comparison"]), default=0)
    for entry in result["comparison"]:
        name = f"{entry['name']} {entry['phi']:g}".ljust(13)
        spread = "" if entry["deviation"] is None else f" +- {entry['deviation']:.1%}"
        reached = "could not be evaluated" if entry["accuracy"] is None else f"{entry['accuracy']:.1%}{spread}"
        notes = [f"{format_latency(entry['latency_ms'])}", f"{entry['macs_ratio']:.2f} times the MACs"]
        notes += [] if entry["within_5_percent"] else ["not within 5 % of the target"]
        notes += [f"{len(entry['accuracies'])} of {most} seeds"] if 0 < len(entry["accuracies"]) < most else []
        lines.append(f"{name} {reached}, {', '.join(notes)}")
    for line in lines:
        console.print(line, highlight=False)
