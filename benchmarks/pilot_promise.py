"""Does a pilot keep its promise? Fresh networks are trained twice at the budget that it chose.

    python -m benchmarks.pilot_promise results.jsonl RUN ...

For each finished run folder, networks within its target that the run has not seen are drawn, and each is trained with
two new seeds exactly as a candidate. Their reliability is compared with the interval in the pilot's certificate.
Results are JSON lines; a run that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.latency.table import LatencyTable
from nas.spaces.resolutions import at_resolutions
from nas.spaces.sampling import distinct_networks
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space
from nas.study.reliability import measure_reliability
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter
from nas.utils.units import parse_resolutions

SEEDS = (1000, 1001)
"""Seeds that no search has used."""


def fresh_networks(space: Space, result: dict[str, Any], count: int) -> list[Architecture]:
    """Return networks within the target that are no candidates of the run."""
    seen = {candidate["architecture"] for candidate in result["candidates"]}
    predictor = LatencyTable.open(Path(result["settings"]["table"])).predictor(space.key)
    target_ms = result["target_latency_ms"]
    rng = random.Random(f"fresh {space.name}")
    found = distinct_networks(
        space, count, rng, 20, lambda arch: arch.digest not in seen and predictor.predict(arch) <= target_ms
    )
    return [arch for arch, _ in found]


def check(run: Path, count: int) -> dict[str, Any]:
    """Return what the pilot of a run promised, and what fresh networks show."""
    result = json.loads((run / "result.json").read_text())
    settings, certificate = result["settings"], result["evaluator_certificate"]
    task = Classification.load(settings["data"], settings["data_root"], settings["metric"])
    space = at_resolutions(load_space(settings["space"]), parse_resolutions(settings["resolution"]))
    space = space.for_classes(task.num_classes)
    budget = certificate["budget"]
    space = replace(space, proxy=Proxy(budget["resolution"], budget["epochs"], budget["images"]))
    evaluator = ProxyTraining(EvaluatorContext(task, space, run, None, settings["seed"], Reporter(quiet=True)))
    networks = fresh_networks(space, result, count)
    groups = [[list(evaluator.evaluate(arch, seed))[-1] for seed in SEEDS] for arch in networks]
    found = measure_reliability(groups)
    assert found is not None
    return {
        "run": run.name, "data": task.data.name, "images_seen": budget["images_seen"],
        "promised": {key: certificate[key] for key in ("reliability", "low", "high", "noise", "between", "chance")},
        "found": found.to_dict(), "kept": certificate["low"] <= found.reliability <= certificate["high"],
        "accuracies": groups,
    }  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{'run':<34}{'images':>8}  {'promised':<22}{'found':>6}{'noise':>7}{'between':>9}{'lowest':>8}  kept"
    for row in rows:
        promised, found = row["promised"], row["found"]
        interval = f"{promised['reliability']:.2f} ({promised['low']:.2f} to {promised['high']:.2f})"
        lowest = min(sum(group) / len(group) for group in row["accuracies"])
        yield (
            f"{row['run']:<34}{row['images_seen']:>8,}  {interval:<22}{found['reliability']:>6.2f}"
            f"{found['noise']:>7.1%}{found['between']:>9.1%}{lowest:>8.1%}  {'yes' if row['kept'] else 'NO'}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--networks", type=int, default=12)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    for run in args.runs:
        if run.name not in {row["run"] for row in rows}:
            rows.append(check(run, args.networks))
            with args.results.open("a") as file:
                file.write(f"{json.dumps(rows[-1])}\n")
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
