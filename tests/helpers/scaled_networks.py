"""Shared by the tests of scaling: a small base, a source of scripted latencies, and an evaluator."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nas.architecture import Architecture
from nas.networks.network import canonical, totals, trace
from nas.spaces.yaml_format import parse_space

DATA = {
    "resolution": 64,
    "stages": [
        {"block": "conv", "out_channels": 16, "stride": 2},
        {"block": "mbconv", "depth": 2, "out_channels": 16, "expand_ratio": 2},
        {"block": "mbconv", "depth": 3, "out_channels": 24, "expand_ratio": 3, "stride": 2},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}
BASE: Architecture = canonical(parse_space("base", DATA, "base.yaml").decode({}))

TINY_BASE = """
resolution: 16
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, depth: 2, out_channels: 8, expand_ratio: 2}
head: {block: classifier}
"""
EVALUATOR = '''
"""Accuracies that depend on the network and the seed; the start and end of each evaluation are noted in a file."""

import os
from pathlib import Path

NOTES = Path(os.environ.get("NOTES", "notes.txt"))


def note(word, arch, seed):
    with NOTES.open("a") as file:
        file.write(f"{word} {arch.digest} {seed}\\n")


def score(arch, seed):
    note("began", arch, seed)
    accuracy = 0.2 + int(arch.digest[:4], 16) / 2**17 + (seed % 7) / 100
    yield accuracy
    note("ended", arch, seed)


def picky(arch, seed):
    if arch.resolution >= 20:
        raise ValueError("too many pixels")
    yield from score(arch, seed)


class Unmade:
    def __init__(self, setup):
        raise OSError("no weights")
'''


def macs(arch: Architecture) -> int:
    return totals(trace(arch)).macs


def noise(text: str) -> float:
    """Return a number in [-1, 1] that depends on the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 2**23 - 1


class ScriptedLatency:
    """Latencies with known true values: each session adds an error, and a latency is the mean over its sessions.

    `error` is the largest relative error.
    """

    is_measured = True
    place = "here"
    settings: ClassVar[dict[str, Any]] = {"runtime": "scripted"}

    def __init__(self, truth: Callable[[Architecture], float], error: float = 0.0):
        self.truth, self.error = truth, error
        self.timed: list[list[str]] = []
        self._counts: dict[str, int] = {}

    def measure(self, archs: Sequence[Architecture]) -> None:
        self.timed.append([arch.digest for arch in archs])
        assert len(set(self.timed[-1])) == len(archs)
        for arch in archs:
            self._counts[arch.digest] = self._counts.get(arch.digest, 0) + 1

    def session_count(self, arch: Architecture) -> int:
        return self._counts.get(arch.digest, 0)

    def ms(self, arch: Architecture) -> float:
        count = self._counts[arch.digest]  # a network that was never timed has no latency
        errors = [self.error * noise(f"{arch.digest} {number}") for number in range(count)]
        return self.truth(arch) * (1 + sum(errors) / count)


NUMBER = itertools.count()


def evaluator_module(folder: Path, files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make a folder the current one, with files and a module of `EVALUATOR`; yield the new name of the module."""
    name = f"scale_evaluator_{next(NUMBER)}"
    for path, content in {f"{name}.py": EVALUATOR, **files}.items():
        (folder / path).write_text(content, encoding="utf-8")
    monkeypatch.setenv("NOTES", str(folder / "notes.txt"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)
