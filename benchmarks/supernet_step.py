"""What sharing weights costs: a training step of a child on slices of the bank against the same child as a module.

    python benchmarks/supernet_step.py [--space cifar] [--networks 6] [--steps 12] [--batch 64]

Both run forward and backward on the same images, in turn, and count processor time; the median of the steps counts.
Printed is plain / shared for each network, and the median of these ratios: 1 is free. The child is assembled anew for
each step, as in the training of a supernet, where hardly any child comes twice.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.evaluators.supernet.shared_weights import Child, Supernet
from nas.networks.network import canonical, totals, trace
from nas.spaces.yaml_format import load_space
from nas.utils.allocator import keep_freed_memory


def step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Run one forward and backward pass; gradients end in the module's parameters, or in the bank's."""
    loss = F.cross_entropy(model(images), labels)
    if isinstance(model, Child):
        model.backward(loss)
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    supernet, rng = Supernet(load_space(args.space)), random.Random(0)
    ratios = []
    for _ in range(args.networks):
        arch = canonical(supernet.space.decode(supernet.space.sample(rng)))
        plain = supernet.extract(arch).train().to(memory_format=torch.channels_last)
        size = arch.resolution
        images = torch.randn(args.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 10, (args.batch,))
        took: dict[str, list[float]] = {"plain": [], "shared": [], "built": []}
        for _ in range(args.steps):
            for name in random.sample(["plain", "shared"], 2):
                started = time.process_time()
                model = plain if name == "plain" else supernet.child(arch).train()
                built = time.process_time()
                step(model, images, labels)
                took[name].append(time.process_time() - started)
                if name == "shared":
                    took["built"].append(built - started)
        middle = {name: 1e3 * statistics.median(values) for name, values in took.items()}
        ratios.append(middle["plain"] / middle["shared"])
        print(
            f"{arch.digest}  {totals(trace(arch)).macs / 1e6:5.1f} M MACs  plain {middle['plain']:6.1f} ms  shared "
            f"{middle['shared']:6.1f} ms, {middle['built']:.1f} of them to assemble the child  ratio {ratios[-1]:.3f}"
        )
    print(f"plain / shared, median of {len(ratios)} networks: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
