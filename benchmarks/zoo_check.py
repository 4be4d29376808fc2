"""Random architectures of a space, each built, trained one step, deployed and exported with equal outputs.

    python benchmarks/zoo_check.py [--space zoo] [--networks 200] [--resolution 64] [--seed 0]

Differences are the largest absolute ones of the logits over the largest logit: of the deployed network to the
trained one in eval mode, and of ONNX Runtime to the trained one. Exits with 1 where one exceeds 1e-5.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices.runtimes import make_runtime
from nas.networks.condensenet import set_progress
from nas.networks.deployment import deploy
from nas.networks.network import build, canonical
from nas.spaces.yaml_format import load_space

LIMIT = 1e-5
CLASSES, BATCH = 10, 4


@dataclass(frozen=True)
class Check:
    """The largest differences of a network's outputs, relative to the largest logit."""

    deployed: float
    onnx: float

    @property
    def is_equal(self) -> bool:
        """Whether both are within the limit; false for a NaN."""
        return self.deployed <= LIMIT and self.onnx <= LIMIT


def check(arch: Architecture, seed: int) -> Check:
    """Build `arch`, train it one step on random images, condense, deploy and export it, and compare the outputs."""
    torch.manual_seed(seed)
    model = build(arch)
    train_one_step(model, arch.resolution)
    set_progress(model, 1.0)
    image = torch.randn(1, 3, arch.resolution, arch.resolution)
    with torch.no_grad():
        expected = model.eval()(image)
        deployed = deploy(model)
        difference = relative(deployed(image), expected)
    runtime = make_runtime("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{runtime.suffix}"
        runtime.export(deployed, [image], path)
        (output,) = runtime.load(str(path), [image.numpy()], 1)()
    return Check(difference, relative(torch.from_numpy(np.asarray(output)), expected))


def train_one_step(model: nn.Module, resolution: int) -> None:
    """Take one step of SGD. Raises AssertionError where a parameter gets no finite gradient."""
    images, labels = torch.randn(BATCH, 3, resolution, resolution), torch.arange(BATCH) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model.train()(images), labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    optimizer.step()


def relative(output: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest expected value."""
    return ((output - expected).abs().max() / expected.abs().max()).item()


def sampled(space_name: str, networks: int, resolution: int, seed: int) -> list[Architecture]:
    """Return random architectures of a space with a head for ten classes."""
    space, rng = load_space(space_name).for_classes(CLASSES), random.Random(seed)
    return [canonical(space.decode(space.sample(rng)).at(resolution)) for _ in range(networks)]


def main() -> int:
    """Check them all and print the counts and the largest differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="zoo")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    archs = sampled(args.space, args.networks, args.resolution, args.seed)
    checks = [check(arch, seed) for seed, arch in enumerate(archs)]
    blocks = Counter(spec.op for arch in archs for stage in arch.stages for spec in stage)
    for arch, result in zip(archs, checks, strict=True):
        if not result.is_equal:
            print(f"{arch.digest}: deployed {result.deployed:.1e}, ONNX {result.onnx:.1e}")
    print(f"{args.networks} networks of '{args.space}' at {args.resolution} px: " + ", ".join(
        f"{count} {op}" for op, count in blocks.most_common()))  # fmt: skip
    print(f"built, trained one step, deployed, exported: {len(checks)}; equal: {sum(c.is_equal for c in checks)}")
    print(f"largest difference: deployed {max(c.deployed for c in checks):.1e}, ONNX {max(c.onnx for c in checks):.1e}")
    return 0 if all(result.is_equal for result in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
