"""Three search problems whose answer is known or nearly so, from published measurements: what controllers are tried on.

macro: NAS-Bench-Macro (Su et al. 2021), 3^8 networks, an evaluation is one of three trainings, the cost is FLOPs.
nb201: NAS-Bench-201's cells (Dong & Yang 2020) with NATS-Bench's CIFAR-100 accuracies, the latency that HELP
(Lee et al. 2021) measured on a Raspberry Pi 4.
ofa: Once-for-All's MobileNetV3 (Cai et al. 2020) with choices shared in a stage, accuracy by the authors' predictor,
latency by the authors' tables of a Note 10.
The limit is the median cost: of all networks, or of 20,000 random ones (ofa).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nas.spaces.encoding import CandidateCosts, EncodedSpace, Floats, Indices

BENCH = Path(__file__).parent.parent.parent / "shared" / "bench"
REACHED = 0.002
"""A search has arrived where the best feasible network it evaluated is within this of the best known."""


@dataclass(frozen=True)
class SearchProblem:
    """A domain, the accuracy in [0, 1] that an evaluation of rows (N, choices) with a seed gives, and the true one."""

    name: str
    domain: EncodedSpace
    evaluate: Callable[[Indices, int], Floats]
    true: Callable[[Indices], Floats]
    limit: float
    best: float


def by_number(widths: tuple[int, ...], rows: Indices) -> Any:
    """Return the row of a complete table, the last choice fastest, of each row of indices."""
    return np.ravel_multi_index(tuple(rows.T.astype(np.intp)), widths)


@lru_cache
def macro(bench: Path = BENCH) -> SearchProblem:
    """Return NAS-Bench-Macro; equal networks have equal keys."""
    with (bench / "nas_bench_macro" / "nb_macro.csv").open() as file:
        found = {row["arch"]: row for row in csv.DictReader(file)}
    codes = [np.base_repr(number, 3).zfill(8) for number in range(3**8)]
    column = {
        key: np.array([float(found[code][key]) for code in codes]) for key in ("mean_acc", "params", "flops")
    }  # fmt: skip
    seeds = np.stack([[float(found[code][f"acc{seed}"]) / 100 for code in codes] for seed in (1, 2, 3)])
    true, cost = column["mean_acc"] / 100, column["flops"]
    same = {code: number for number, code in enumerate(codes)}
    keys = np.array([same[shortened(code)] for code in codes])
    features = np.log(np.stack([cost, column["params"]], axis=1))

    def facts(rows: Indices) -> CandidateCosts:
        at = by_number((3,) * 8, rows)
        return CandidateCosts(keys[at], cost[at], features[at])

    stages = {
        f"stage{stage}.layer{layer}": f"stage{stage}" for stage, depth in enumerate((2, 3, 3)) for layer in range(depth)
    }
    domain = EncodedSpace(dict.fromkeys(stages, ("identity", "k3_e3", "k5_e6")), facts)
    limit = float(np.median(cost))
    return SearchProblem(
        "macro",
        domain,
        lambda rows, seed: seeds[seed % 3, by_number((3,) * 8, rows)],
        lambda rows: true[by_number((3,) * 8, rows)],
        limit,
        float(true[cost <= limit].max()),
    )


def shortened(code: str) -> str:
    """Return the code with every identity of stride 1, which is nothing, behind the layers of its stage."""
    stages = code[:2], code[2:5], code[5:]
    return "".join(stage[0] + stage[1:].replace("0", "").ljust(len(stage) - 1, "0") for stage in stages)


OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@lru_cache
def nb201(bench: Path = BENCH, device: str = "lat_raspi4") -> SearchProblem:
    """Return the cells of NAS-Bench-201: the operation of each of six edges."""
    with gzip.open(bench / "nas_bench_201" / "nb201.csv.gz", "rt") as file:
        lines = list(csv.DictReader(file))
    widths = (len(OPERATIONS),) * 6
    names = [
        [edge.split("~")[0] for edge in line["arch_str"].strip("|").replace("|+|", "|").split("|")] for line in lines
    ]
    cells = np.array([[OPERATIONS.index(name) for name in edges] for edges in names], np.int16)
    order = np.argsort(by_number(widths, cells))
    cells = cells[order]
    true = np.array([float(lines[at]["nats_c100_test"]) / 100 for at in order])
    cost = np.array([float(lines[at][device]) for at in order])
    small, large = (cells == 2).sum(axis=1), (cells == 3).sum(axis=1)
    features = np.log(np.stack([1.0 + small + 9 * large], axis=1))  # MACs and parameters of the cell go with this

    def facts(rows: Indices) -> CandidateCosts:
        at = by_number(widths, rows)
        return CandidateCosts(at, cost[at], features[at])

    edges = {f"edge{start}{end}": OPERATIONS for end in (1, 2, 3) for start in range(end)}
    domain = EncodedSpace(edges, facts)
    limit = float(np.median(cost))
    accuracy = lambda rows, seed=0: true[by_number(widths, rows)]  # noqa: E731
    return SearchProblem("nb201", domain, accuracy, accuracy, limit, float(true[cost <= limit].max()))


SPACE: dict[str, Any] = {
    "resolution": [160, 176, 192, 208, 224],
    "stages": [
        {"block": "conv", "out_channels": 24, "stride": 2, "activation": "hard_swish"},
        {"block": "mbconv", "out_channels": 24, "expand_ratio": 1},
        *(
            {
                "block": "mbconv", "depth": [2, 3, 4], "out_channels": width, "stride": stride,
                "kernel_size": [3, 5, 7], "expand_ratio": [3, 4, 6], **more,
            }
            for width, stride, more in (
                (32, 2, {}),
                (48, 2, {"se_ratio": 0.25, "se_from": "expansion"}),
                (96, 2, {"activation": "hard_swish"}),
                (136, 1, {"se_ratio": 0.25, "se_from": "expansion", "activation": "hard_swish"}),
                (192, 2, {"se_ratio": 0.25, "se_from": "expansion", "activation": "hard_swish"}),
            )
        ),
    ],
    "head": {
        "block": "classifier", "hidden_channels": 1152, "pooled_channels": 1536, "activation": "hard_swish",
        "dropout": 0.2,
    },
}  # fmt: skip
KERNELS, EXPANSIONS, RESOLUTIONS = (3, 5, 7), (3, 4, 6), tuple(range(112, 225, 16))
BEST_OFA = 0.763579
"""The best within the limit that 150 generations of 20,000 mutants found; nobody has looked at all 7.2e7."""
SHIFT = 0.0588
"""The predictor is of fine-tuned networks: by so much it lies above what the shared weights reach."""


@lru_cache
def ofa(bench: Path = BENCH) -> SearchProblem:
    """Return Once-for-All's space with the kernel and the expansion of a stage shared by its layers: 7.2e7 networks."""
    from nas.latency.published import complete, read_published, source_of
    from nas.latency.table import LatencyTable
    from nas.spaces.automaton import reachable
    from nas.spaces.encoded_space import encode_space
    from nas.spaces.yaml_format import parse_space

    space = parse_space("ofa_shared", SPACE, "benchmarks/search_problems.py")
    published = read_published(sorted((bench / "published_latency_tables").glob("ofa_note10_*.csv")))
    header = {**source_of(published, "note10").header(), "space": published.family, "published": True,
              "not_measured": []}  # fmt: skip
    table = LatencyTable(
        Path("note10.jsonl"), header, {(row.layer.spec, row.layer.in_shape): [(0.0, row.ms)] for row in published.rows}
    )
    complete(table, reachable(space))
    domain = encode_space(space, table.predictor(space.key).layer_ms)
    weights = dict(np.load(bench / "ofa_mobilenet_v3" / "acc_predictor_weights.npz"))
    keys = list(space.choices)

    def accuracy(rows: Indices, seed: int = 0) -> Floats:
        return mlp(weights, encode_ofa(rows, keys)) - SHIFT

    costs = domain.facts(domain.sample(20_000, np.random.default_rng(0))).latency_ms
    return SearchProblem("ofa", domain, accuracy, accuracy, float(np.median(costs)), BEST_OFA)


def encode_ofa(rows: Indices, keys: list[str]) -> Floats:
    """Return the predictor's input, (N, 128): 60 kernel and 60 expansion one-hots, and 8 of the resolution."""
    count = len(rows)
    inputs = np.zeros((count, 128))
    resolution = np.array(SPACE["resolution"])[rows[:, keys.index("resolution")]]
    inputs[np.arange(count), 120 + (resolution - 112) // 16] = 1
    stages = sorted({key.split(".")[0] for key in keys} - {"resolution"})
    for stage, name in enumerate(stages):
        depth, kernel, expand = (
            rows[:, keys.index(f"{name}.{key}")] for key in ("depth", "kernel_size", "expand_ratio")
        )
        for layer in range(4):
            there = np.flatnonzero(layer < depth + 2)
            place = 3 * (4 * stage + layer)
            inputs[there, place + kernel[there]] = 1
            inputs[there, 60 + place + expand[there]] = 1
    return inputs


def mlp(weights: dict[str, Any], inputs: Floats) -> Floats:
    """Return the predictor's accuracies, (N,) in [0, 1]."""
    hidden = inputs
    layers = sorted(key for key in weights if "weight" in key)
    for key in layers:
        hidden = hidden @ weights[key].T.astype(np.float64) + weights.get(key.replace("weight", "bias"), 0.0)
        if key != layers[-1]:
            hidden = np.maximum(hidden, 0)
    return hidden[:, 0]


PROBLEMS = {"macro": macro, "nb201": nb201, "ofa": ofa}
