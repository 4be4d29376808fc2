"""Exported model.py files of random architectures, each used in the ways in which torch uses a network.

    python benchmarks/source_check.py [--spaces mobile,zoo] [--networks 20] [--resolution 64] [--seed 0]

Of each file: it computes what the searched network computes, torch.jit.script and torch.export (with any batch size)
compute the same, it takes one step of a fine-tuning with other classes, gives feature maps, and runs in bfloat16.
Of all files together: `ruff check`, `ruff format --check` and `mypy --strict`. Exits with 1 where one fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo_check import sampled
from nas.architecture import Architecture
from nas.networks.network import build
from nas.networks.standalone.source import standalone_source
from nas.networks.standalone.state_names import exported_state

OTHER_CLASSES = 7
TOOLS = (["ruff", "check", "--isolated"], ["ruff", "format", "--isolated", "--check"], ["mypy", "--strict"])


def imported(path: Path) -> Any:
    """Return the module of a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def uses(arch: Architecture, path: Path) -> dict[str, Callable[[], None]]:
    """Return the ways to use a file, each of which raises an error where it fails."""
    ours = build(arch).eval()
    module = imported(path)
    network = module.build().eval()
    network.load_state_dict(exported_state(ours.state_dict()))
    x = torch.randn(2, *arch.input_shape)
    with torch.no_grad():
        expected = ours(x)

    def computes() -> None:
        assert torch.equal(network(x), expected)

    def scripts() -> None:
        torch.testing.assert_close(torch.jit.script(network)(x), expected)

    def exports() -> None:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(program(x.repeat(3, 1, 1, 1)), expected.repeat(3, 1), rtol=1e-3, atol=1e-4)

    def fine_tunes() -> None:
        other = module.build(num_classes=OTHER_CLASSES).train()
        with torch.enable_grad():
            nn.functional.cross_entropy(other(x), torch.arange(2)).backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD(other.parameters(), lr=0.01).step()
        assert all(torch.isfinite(value).all() for value in other.parameters())

    def gives_features() -> None:
        maps = module.build(features=True).eval()(x)
        assert len(maps) > 1 and all(a.shape[2] > b.shape[2] for a, b in itertools.pairwise(maps))

    def is_halved() -> None:
        halved = module.build().bfloat16().eval()
        assert halved(x.bfloat16()).dtype == torch.bfloat16

    return {each.__name__: each for each in (computes, scripts, exports, fine_tunes, gives_features, is_halved)}


def main() -> int:
    """Check them all, and print what passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spaces", default="mobile,zoo")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    spaces = args.spaces.split(",")
    archs = [(name, arch) for name in spaces
             for arch in sampled(name, args.networks // len(spaces), args.resolution, args.seed)]  # fmt: skip
    passed: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for number, (name, arch) in enumerate(archs):
            path = Path(folder) / f"network_{number}.py"
            path.write_text(standalone_source(arch, f"Architecture {arch.digest}."))
            for use, run in uses(arch, path).items():
                try:
                    run()
                    passed[use] += 1
                except Exception as error:  # every kind counts as a failure
                    failed += 1
                    print(f"{name} {arch.digest} {use}: {type(error).__name__}: {str(error)[:400]}", flush=True)
        files = sorted(map(str, Path(folder).glob("*.py")))
        for tool in TOOLS:
            command = [sys.executable, "-m", *tool, *files]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            failed += done.returncode != 0
            print(f"{' '.join(tool)}: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else 'passed'}")
    print(f"{len(archs)} networks of {args.spaces} at {args.resolution} px: " + ", ".join(
        f"{use} {count}" for use, count in passed.items()))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
