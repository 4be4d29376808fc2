"""How well the latency table predicts whole networks, beside a line through their MACs, in one run.

    python benchmarks/prediction.py [--space mnasnet] [--runtime onnxruntime] [--networks 20]

Random networks of the space are predicted by the table of this machine (what it lacks is measured first), then
exported and measured, interleaved. The peer is the least-squares line latency = a * MACs + b through the same
networks: it has seen the answers, the table has not. Printed are mean and worst relative error, the rank correlation,
and the ratio of the mean errors.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from nas.latency import LatencyTable
from nas.lattice import reachable
from nas.network import canonical, trace
from nas.profiler import default_table_path, measure_networks, profile, table_header
from nas.progress import Reporter
from nas.space_file import load_space


def report(name: str, predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Print the errors of a prediction and return the mean one."""
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    rank = spearmanr(predicted, measured).statistic
    print(f"{name:14} mean error {errors.mean():6.1%}   worst {errors.max():6.1%}   Spearman {rank:.3f}")
    return float(errors.mean())


def main() -> None:
    """Predict, measure, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--networks", type=int, default=20)
    args = parser.parse_args()
    space, reporter = load_space(args.space), Reporter()
    header = table_header(args.runtime, threads=1)
    table = LatencyTable.open(default_table_path(header), header)
    profile(reachable(space), table, reporter)
    rng = random.Random(0)
    archs = [canonical(space.decode(space.sample(rng))) for _ in range(args.networks)]
    measured = [latency.median for latency in measure_networks(archs, args.runtime, 1, reporter)]
    predicted = [table.predict(arch) for arch in archs]
    macs = [sum(layer.macs for layer in trace(arch)) for arch in archs]
    line = np.poly1d(np.polyfit(macs, measured, 1))
    scale = float(np.median(np.asarray(measured) / np.asarray(predicted)))
    print(f"{args.networks} networks of '{args.space}', {args.runtime} {header['runtime_version']}, {header['device']}")
    ours = report("table", predicted, measured)
    report("table, scaled", [scale * ms for ms in predicted], measured)
    theirs = report("line of MACs", [float(line(count)) for count in macs], measured)
    print(f"measured / predicted, median: {scale:.3f}; error of the line / error of the table: {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
