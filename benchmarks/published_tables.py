"""What published latency tables predict for networks whose latency their authors published, side by side.

    python benchmarks/published_tables.py [--proxylessnas FILE] [--ofa FILE ...]

Single-Path NAS's network by the shipped table pixel1; with the user's copies of the tables that do not ship,
ProxylessNAS's mobile network and Once-for-All's 30 ms network of a Note 10. Nothing is measured here. Printed are
prediction, published latency and their ratio, and what each shipped table's space spans.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.architecture import Architecture, Scalar
from nas.latency.catalog import open_named
from nas.latency.published import complete, read_published, source_of, write_table
from nas.latency.table import LatencyTable
from nas.spaces.automaton import best_path, reachable
from nas.spaces.yaml_format import load_space

Stage = Sequence[tuple[int, int]]
"""(kernel, expansion) of the layers of a stage."""


@dataclass(frozen=True)
class Network:
    """A published network as choices of a shipped space; stage 2 is the first that is searched."""

    name: str
    space: str
    stages: Sequence[Stage]
    published_ms: float
    where: str
    resolution: int = 224

    @property
    def architecture(self) -> Architecture:
        """The network as an architecture of its space."""
        choices: dict[str, Scalar] = {"resolution": self.resolution}
        for index, stage in enumerate(self.stages, start=2):
            choices[f"stage{index}.depth"] = len(stage)
            for layer, (kernel, expand) in enumerate(stage):
                for place in (f"stage{index}.layer{layer}", f"stage{index}"):  # the second where a stage has one layer
                    choices[f"{place}.kernel_size"], choices[f"{place}.expand_ratio"] = kernel, float(expand)
        return load_space(self.space).decode(choices)


SINGLE_PATH = Network(
    "Single-Path NAS", "single_path_nas",
    [[(3, 3)] * 3, [(5, 6), *[(3, 3)] * 3], [(5, 6), *[(3, 3)] * 3], [(5, 6), *[(5, 3)] * 3], [(5, 6)] * 4],
    79.48, "arXiv:1904.02877, table 1; layers as in timm's spnasnet_100",
)  # fmt: skip
PROXYLESS = Network(
    "ProxylessNAS mobile", "proxylessnas",
    [[(5, 3), (3, 3)], [(7, 3), (3, 3), (5, 3), (5, 3)], [(7, 6), *[(5, 3)] * 3], [(5, 6), *[(5, 3)] * 3],
     [(7, 6), (7, 6), (7, 3), (7, 3)], [(7, 6)]],
    80.67, "mit-han-lab/proxylessnas, logs/proxyless_mobile_10_latency.txt; 78 in arXiv:1812.00332",
)  # fmt: skip

OFA = Network(
    "Once-for-All, 30 ms", "ofa",
    [[(3, 3), (3, 3)], [(5, 4), (3, 3), (3, 4)], [(5, 4), (5, 4), (3, 3)], [(3, 6), (3, 4), (3, 4)],
     [(3, 6), (3, 6), (3, 4), (3, 3)]],
    30.0, "han-cai/files, ofa/ofa_specialized/note10_lat-30ms_top1-78.4_finetune-75",
)  # fmt: skip


def predicted_ms(network: Network, table: LatencyTable) -> float:
    """Return the table's prediction of a network in ms."""
    complete(table, reachable(load_space(network.space)))
    return table.predictor("").predict(network.architecture)


def report(network: Network, table: LatencyTable) -> None:
    """Print prediction, published latency and ratio."""
    ms = predicted_ms(network, table)
    ratio = ms / network.published_ms
    print(f"{network.name:20} {ms:7.2f} ms predicted  {network.published_ms:7.2f} ms published  ratio {ratio:.3f}")
    print(f"{'':20} {network.where}")


def span(name: str, table: LatencyTable) -> None:
    """Print what a space spans by a table: exact extremes and the median of 1000 random networks."""
    space = load_space(name)
    complete(table, reachable(space))
    fastest, slowest = (best_path(space, table.latency_ms, largest=largest)[0] for largest in (False, True))
    rng = random.Random(0)
    drawn = statistics.median(table.predictor("").predict(space.decode(space.sample(rng))) for _ in range(1000))
    print(f"{name:20} {fastest:.1f} / {drawn:.1f} / {slowest:.1f} ms (fastest / median / slowest)")


def imported(paths: Sequence[Path], folder: Path) -> LatencyTable:
    """Return the table of published files, written into `folder`."""
    published = read_published(paths)
    return write_table(published, source_of(published, paths[0].stem), folder / f"{published.family}.jsonl")


def main() -> None:
    """Predict and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proxylessnas", type=Path, metavar="FILE")
    parser.add_argument("--ofa", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    report(SINGLE_PATH, open_named("pixel1"))
    with tempfile.TemporaryDirectory() as folder:
        if args.proxylessnas:
            table = imported([args.proxylessnas], Path(folder))
            report(PROXYLESS, table)
            span("proxylessnas", table)
        if args.ofa:
            table = imported(args.ofa, Path(folder))
            report(OFA, table)
            span("ofa", table)
    span("single_path_nas", open_named("pixel1"))
    span("fbnet", open_named("rpi4"))


if __name__ == "__main__":
    main()
