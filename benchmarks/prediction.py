"""How well the latency table predicts networks that it has never seen, timed by onnxruntime alone.

    python benchmarks/prediction.py [--space mnasnet] [--networks 20] [--seed 1]

The table of this machine is opened (what it lacks is measured first). Fresh random networks of the space are
exported to ONNX and timed here with onnxruntime's own session and a plain loop, none of our measuring code: one
thread, rounds in random order, the median of each network's calls. The peer is the least-squares line
latency = a * MACs + b through the same networks: it has seen the answers, the table has not. Printed are mean and
worst relative error, the rank correlation, and the ratio of the mean errors; and the errors after one common factor,
which a machine whose speed differs from that of the hour of the table has.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from nas.architecture import Architecture
from nas.calibration import certify
from nas.latency import LatencyTable
from nas.network import build, deploy, trace
from nas.profiler import default_table_path, profile, table_header
from nas.progress import Reporter
from nas.runtimes.onnxruntime import OnnxRuntime
from nas.space_file import load_space
from nas.witnesses import draw, whole_networks

ROUNDS, CALLS, WARMUP = 40, 5, 2


def time_alone(archs: Sequence[Architecture]) -> list[float]:
    """Return each network's median latency in ms, by onnxruntime and a loop."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = []
    with tempfile.TemporaryDirectory() as folder:
        for index, arch in enumerate(archs):
            path = Path(folder) / f"{index}.onnx"
            x = torch.randn(1, 3, arch.resolution, arch.resolution)
            OnnxRuntime().export(deploy(build(arch)), [x], path)
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            sessions.append((session, {session.get_inputs()[0].name: x.numpy()}))
    times: list[list[float]] = [[] for _ in archs]
    order = list(range(len(archs)))
    for _ in range(ROUNDS):
        random.shuffle(order)
        for index in order:
            session, feeds = sessions[index]
            for call in range(WARMUP + CALLS):
                start = time.perf_counter()
                session.run(None, feeds)
                if call >= WARMUP:
                    times[index].append(1e3 * (time.perf_counter() - start))
    return [float(np.median(calls)) for calls in times]


def report(name: str, predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Print the errors of a prediction and return the mean one."""
    found = certify(predicted, measured, 0.0)
    print(
        f"{name:26} mean error {found.mean_error:6.1%}   worst {found.worst_error:6.1%}   "
        f"within 10 % {found.within_10:4.0%}   Spearman {found.spearman:.3f}"
    )
    return found.mean_error


def main() -> None:
    """Predict, measure, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    space = load_space(args.space)
    header = table_header("onnxruntime", threads=1)
    table = LatencyTable.open(default_table_path(header), header)
    profile(space, table, Reporter())
    seen = {network.arch.digest for network in whole_networks(space)}
    archs = [arch for arch in draw(space, args.networks + len(seen), f"{args.seed}") if arch.digest not in seen]
    archs = archs[: args.networks]
    measured = time_alone(archs)
    predicted = [table.predictor(space.name).predict(arch) for arch in archs]
    macs = [sum(layer.macs for layer in trace(arch)) for arch in archs]
    line = np.polynomial.Polynomial.fit(macs, measured, 1)
    scale = float(np.median(np.asarray(measured) / np.asarray(predicted)))
    print(f"{len(archs)} networks of '{space.name}', onnxruntime {header['runtime_version']}, {header['device']}")
    if space.name in table.certificates:
        print(f"certificate                {table.certificates[space.name]}")
    ours = report("table", predicted, measured)
    report("table, one factor", [scale * ms for ms in predicted], measured)
    report(
        "sum of rows, one factor", _scaled([table.predictor("").predict(arch) for arch in archs], measured), measured
    )
    theirs = report("line of MACs", [float(line(count)) for count in macs], measured)
    print(f"measured / predicted, median: {scale:.3f}; error of the line / error of the table: {theirs / ours:.2f}")


def _scaled(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    return list(np.asarray(predicted) * np.median(np.asarray(measured) / np.asarray(predicted)))


if __name__ == "__main__":
    main()
