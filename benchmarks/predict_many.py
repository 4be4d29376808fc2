"""Predictions a second on one core: the compiled space against walks over layers, in one run.

    OMP_NUM_THREADS=1 python benchmarks/predict_many.py [--space mnasnet] [--networks 1000000] [--repeats 9]

`codes` are small integers of networks, predicted by gathers from stage tables (numpy). The peers are
`Predictor.predict` over decoded architectures, and the bare sum over a dict of (block, shape) keys for which every
network's keys were made beforehand. All three predict the same networks by the same table of made-up latencies, and
must agree. Rounds are interleaved; printed are medians, and the ratios of the medians. Before that: the time to
compile the space with its layers traced, and to sample 10,000 networks below the 1 % quantile of its latency.
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.latency.table import LatencyTable
from nas.networks.network import Layer, trace
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.latency_distribution import latency_distribution, sample_within
from nas.spaces.yaml_format import load_space

WALKED = 2000
"""Networks that the peers predict in a round."""


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Compile, sample, predict, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--networks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    space, table = load_space(args.space), LatencyTable(Path("made-up"), {})

    def made_up(layer: Layer) -> float:
        key = (layer.spec, layer.in_shape)
        ms = 0.01 + layer.macs / 1e8 + zlib.crc32(str(key).encode()) / 2**35
        if key not in table.rows:
            table.assume(key, ms)
        return ms

    print(f"'{args.space}', layers not traced yet: compiled in {seconds(lambda: tabulate_costs(space, made_up)):.2f} s")
    warm = statistics.median(seconds(lambda: tabulate_costs(space, table.latency_ms)) for _ in range(args.repeats))
    compiled = tabulate_costs(space, table.latency_ms)
    rows = sum(part.rows for part in compiled.tables)
    print(f"compiled again in {warm:.3f} s: {len(compiled.tables)} tables of {rows} rows, {compiled.size:.3g} networks")
    rng = np.random.default_rng(0)
    limit = latency_distribution(compiled).quantile(0.01)
    low = statistics.median(
        seconds(lambda: sample_within(compiled, limit, 10_000, rng)) for _ in range(max(args.repeats // 2, 1))
    )
    print(f"10,000 uniform samples below the 1 % quantile: {low:.3f} s")
    codes = sample_within(compiled, compiled.max_cost, args.networks, rng)
    archs = [compiled.architecture(code) for code in codes[:, :WALKED].T]
    keys = [[(layer.spec, layer.in_shape) for layer in trace(arch)] for arch in archs]
    costs = {key: table.latency_ms(layer) for arch in archs for layer in trace(arch)
             for key in [(layer.spec, layer.in_shape)]}  # fmt: skip
    runs: dict[str, tuple[int, Callable[[], Any]]] = {
        "codes": (codes.shape[1], lambda: compiled.costs(codes)),
        "dict of keys": (len(keys), lambda: [sum([costs[key] for key in each]) for each in keys]),
        "predictor.predict": (len(archs), lambda: [table.predictor("").predict(arch) for arch in archs]),
    }
    for walked in (runs["predictor.predict"][1](), runs["dict of keys"][1]()):
        np.testing.assert_allclose(compiled.costs(codes[:, :WALKED]), walked, rtol=1e-12)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, (count, work) in runs.items():
            times[name].append(seconds(work) / count)
    rates = {name: 1 / statistics.median(each) for name, each in times.items()}
    for name, rate in rates.items():
        print(f"{name:14} {rate:14,.0f} networks/s   codes are {rates['codes'] / rate:10,.1f} times as fast")


if __name__ == "__main__":
    main()
