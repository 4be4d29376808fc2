"""The time of necks of equal width, and of BiFPN's ways to weigh maps: in training, undeployed and deployed.

    python -m benchmarks.neck_latency [--channels 64] [--depth 3]

EfficientDet's paper (section 6.2) finds fast fusion about 30 % faster than softmax on GPUs. At inference the weights
are constants, so a deployed network shows nothing of it. All variants are timed alternately in one process with one
thread; the medians and their ratios to BiFPN with fast fusion are printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nas.devices.runtimes import make_runtime
from nas.latency.profiler import LayerGraph
from nas.networks.block_schema import block_spec
from nas.networks.deployment import deploy
from nas.networks.network import make_block

SIZES = (40, 20, 10)
"""The maps of a 320 px input at strides 8, 16 and 32."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bifpn fast": ("bifpn", {"fusion": "fast"}),
    "bifpn softmax": ("bifpn", {"fusion": "softmax"}),
    "bifpn unbounded": ("bifpn", {"fusion": "unbounded"}),
    "bifpn sum": ("bifpn", {"fusion": "sum"}),
    "fpn": ("fpn", {}),
    "panet": ("panet", {}),
    "light_pan": ("light_pan", {}),
}
ROUNDS = 40


def make_neck(op: str, args: dict[str, Any], channels: int, depth: int) -> nn.Module:
    """Return `depth` cells of a neck that read maps of `channels` channels."""
    cells: list[nn.Module] = []
    count = len(SIZES)
    for _ in range(depth):
        cells.append(make_block(block_spec(op, {**args, "out_channels": channels}), (channels,) * count))
        with torch.no_grad():
            count = len(nn.Sequential(*cells).eval()(maps_of(channels)))
    return nn.Sequential(*cells)


def maps_of(channels: int, batch: int = 1) -> list[Tensor]:
    """Return random maps."""
    return [torch.randn(batch, channels, size, size) for size in SIZES]


def training_step(neck: nn.Module, maps: list[Tensor]) -> Callable[[], object]:
    """Return a forward and backward pass of a training."""

    def run() -> None:
        total: Any = sum(each.square().mean() for each in neck(maps))
        total.backward()

    neck.train()
    return run


def eager(neck: nn.Module, maps: list[Tensor]) -> Callable[[], object]:
    """Return a forward pass in eager mode."""

    def run() -> object:
        with torch.inference_mode():
            return neck(maps)

    neck.eval()
    return run


def deployed(neck: nn.Module, maps: list[Tensor], runtime_name: str, folder: Path, name: str) -> Callable[[], object]:
    """Return one inference of the deployed neck in a runtime."""
    runtime = make_runtime(runtime_name)
    with torch.no_grad():
        graph = LayerGraph(deploy(neck), True, len(neck.eval()(maps)))
    path = folder / f"{name.replace(' ', '_')}-{runtime_name}{runtime.suffix}"
    runtime.export(graph.eval(), maps, path)
    return runtime.load(str(path), [each.numpy() for each in maps], 1)


def timed(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time in ms of each function, all timed alternately."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 3):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if number >= 3:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: median(found) for name, found in times.items()}


def main() -> None:
    """Time all variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--depth", type=int, default=3, help="cells of a bifpn or panet; an fpn has one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    depths = {"fpn": 1}
    necks = {
        name: make_neck(op, kwargs, args.channels, depths.get(op, args.depth))
        for name, (op, kwargs) in VARIANTS.items()
    }
    one, many = maps_of(args.channels), maps_of(args.channels, 8)
    with tempfile.TemporaryDirectory() as folder:
        columns = {
            "training step, batch 8": {name: training_step(neck, many) for name, neck in necks.items()},
            "eager": {name: eager(neck, one) for name, neck in necks.items()},
            **{
                runtime: {name: deployed(neck, one, runtime, Path(folder), name) for name, neck in necks.items()}
                for runtime in ("onnxruntime", "openvino")
            },
        }
        for title, runs in columns.items():
            for neck in necks.values():
                neck.train(title.startswith("training"))
            found = timed(runs)
            print(f"\n{title}")
            for name, ms in found.items():
                print(f"  {name:16} {ms:8.3f} ms  {ms / found['bifpn fast']:.3f}")


if __name__ == "__main__":
    main()
