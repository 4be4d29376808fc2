"""How well the latency table predicts networks that it has never seen, timed by onnxruntime alone.

    python benchmarks/prediction.py [--space mnasnet] [--networks 20] [--seed 1]

The table of this machine is opened (what it lacks is measured first). Fresh random networks of the space are
exported to ONNX and timed here with onnxruntime's own session and a plain loop, none of our measuring code: one
thread, rounds in random order, the cache flushed before each call. A machine whose speed changes needs more than a
median, so that what the calls say of the truth is estimated as the table's rows are (nas/estimate.py). Among them are
some networks that the table was calibrated by: how fast they are now gives the factor between this hour and that of
the table. The peer is the least-squares line latency = a * MACs + b through the fresh networks: it has seen the
answers, the table has not. Printed are mean and worst relative error, the rank correlation, and the ratio of the mean
errors.
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
from nas.devices.runtimes.onnxruntime import OnnxRuntime
from nas.devices.worker import claim_processor
from nas.latency.calibration import certify
from nas.latency.calibration_networks import whole_networks
from nas.latency.profiler import default_table_path, profile, table_header
from nas.latency.robust_estimation import estimate
from nas.latency.rows import CALIBRATION
from nas.latency.table import LatencyTable
from nas.networks.deployment import deploy
from nas.networks.network import build, trace
from nas.spaces.sampling import sample_networks
from nas.spaces.yaml_format import load_space
from nas.utils.reporting import Reporter

ROUNDS, CALLS, WARMUP, KNOWN, FLUSHED = 60, 3, 1, 6, 4 << 20


def time_alone(archs: Sequence[Architecture]) -> list[float]:
    """Return each network's latency in ms, by onnxruntime and a loop."""
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
    visits: list[tuple[int, float, float]] = []
    order = list(range(len(archs)))
    source, target = bytes(FLUSHED), bytearray(FLUSHED)
    for _ in range(ROUNDS):
        random.shuffle(order)
        for index in order:
            session, feeds = sessions[index]
            times = []
            for _ in range(WARMUP + CALLS):
                target[:] = source  # a layer in a network, and a network in an application, start with a cold cache
                start = time.perf_counter()
                session.run(None, feeds)
                times.append(1e3 * (time.perf_counter() - start))
            visits.append((index, start, float(np.median(times[WARMUP:]))))
    found = estimate(*([visit[part] for visit in visits] for part in range(3)))
    return [found[index] for index in range(len(archs))]


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
    claim_processor(1)  # as far as this user may: the worker of the table had it too
    seen = {network.arch.digest for network in whole_networks(space)}
    archs = [
        arch for arch in sample_networks(space, args.networks + len(seen), f"{args.seed}") if arch.digest not in seen
    ]
    archs = archs[: args.networks]
    known = [network for network in table.networks if network.space == space.key and network.role == CALIBRATION]
    known = known[len(known) // 4 :: 2][:KNOWN]
    timed = time_alone([*archs, *(network.arch for network in known)])
    measured = timed[: len(archs)]
    now = [ms / table.network_ms(network) for ms, network in zip(timed[len(archs) :], known, strict=True)]
    factor = float(np.median(now))
    predicted = [table.predictor(space.key).predict(arch) for arch in archs]
    macs = [sum(layer.macs for layer in trace(arch)) for arch in archs]
    line = np.polynomial.Polynomial.fit(macs, measured, 1)
    scale = float(np.median(np.asarray(measured) / np.asarray(predicted)))
    print(f"{len(archs)} networks of '{space.name}', onnxruntime {header['runtime_version']}, {header['device']}")
    if space.key in table.certificates:
        print(f"certificate                {table.certificates[space.key]}")
    report("table as it stands", predicted, measured)
    ours = report(f"table times {factor:.3f}", [factor * ms for ms in predicted], measured)
    report(f"table times {scale:.3f}, fitted", [scale * ms for ms in predicted], measured)
    report(
        "sum of rows, fitted factor", _scaled([table.predictor("").predict(arch) for arch in archs], measured), measured
    )
    theirs = report("line of MACs", [float(line(count)) for count in macs], measured)
    print(f"{KNOWN} networks that the table knows take {factor:.3f} of what they took then")
    print(f"error of the line / error of the table: {theirs / ours:.2f}")


def _scaled(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    return list(np.asarray(predicted) * np.median(np.asarray(measured) / np.asarray(predicted)))


if __name__ == "__main__":
    main()
