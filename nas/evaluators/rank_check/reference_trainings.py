"""The trainings that evaluators are judged by: some networks of a space, each trained alone with one or more seeds.

A file of JSON lines: a header that says how was trained, then one line for each finished training. A kill loses the
trainings under way and nothing else.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.networks.network import totals, trace
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.utils.allocator import keep_freed_memory
from nas.utils.files import append_rows

FORMAT = 1
DRAWN_PER_NETWORK = 20


@dataclass(frozen=True)
class Training:
    """One training of one network: the validation accuracy after each epoch, and the processor time that it took."""

    arch: Architecture
    seed: int
    curve: tuple[float, ...]
    processor_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the file; `macs` and `params` are there for readers of it."""
        whole = totals(trace(self.arch))
        return {
            "digest": self.arch.digest,
            "seed": self.seed,
            "curve": list(self.curve),
            "processor_s": round(self.processor_s, 2),
            "macs": whole.macs,
            "params": whole.params,
            "architecture": self.arch.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Training:
        """Return the training of a line. Raises RunError where it is not one."""
        try:
            curve = tuple(float(value) for value in data["curve"])
            seed, seconds = int(data["seed"]), float(data["processor_s"])
            arch = Architecture.from_dict(data["architecture"], where)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{where}: not a finished training: {error!r}") from error
        if not curve or not all(0 <= value <= 1 for value in curve):
            raise RunError(f"{where}: curve must be accuracies in [0, 1]: {list(curve)}")
        return cls(arch, seed, curve, seconds)


@dataclass
class ReferenceTrainings:
    """The finished trainings of one file, by (digest, seed)."""

    path: Path
    settings: dict[str, Any]
    trainings: dict[tuple[str, int], Training] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> ReferenceTrainings:
        """Return the reference at `path`, begun where there is none.

        Raises RunError where the file is broken or holds trainings of other settings.
        """
        reference = cls(path, settings)
        if not path.is_file():
            return reference
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                data = json.loads(line)
            except json.JSONDecodeError as error:
                raise RunError(f"{where}: not JSON: {error}") from error
            if number == 1:
                _check_header(data, settings, where)
            else:
                training = Training.from_dict(data, where)
                reference.trainings[training.arch.digest, training.seed] = training
        return reference

    def add(self, training: Training) -> None:
        """Add a finished training and write it before returning. Raises RunError where the disk does not take it."""
        try:
            append_rows(self.path, {"format": FORMAT, "settings": self.settings}, [training.to_dict()])
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error}") from error
        self.trainings[training.arch.digest, training.seed] = training

    def missing(self, archs: Iterable[Architecture], seeds: Sequence[int]) -> list[tuple[Architecture, int]]:
        """Return what is still to be trained, every network with the first seed first."""
        wanted = [(arch, seed) for seed in seeds for arch in archs]
        return [(arch, seed) for arch, seed in wanted if (arch.digest, seed) not in self.trainings]

    def accuracies(self, archs: Iterable[Architecture], seeds: Sequence[int]) -> list[list[float]]:
        """Return the last accuracy of each network's trainings, one for each seed."""
        return [[self.trainings[arch.digest, seed].curve[-1] for seed in seeds] for arch in archs]


def _check_header(data: Any, settings: Mapping[str, Any], where: str) -> None:
    stored = data.get("settings") if isinstance(data, dict) else None
    if not isinstance(stored, dict) or data.get("format") != FORMAT:
        raise RunError(f"{where}: not the header of a reference of format {FORMAT}")
    for key in sorted(stored.keys() & settings.keys()):  # what a later version added was at its default then
        if stored[key] != settings[key]:
            raise RunError(
                f"{where}: holds trainings of other settings: {key} is {stored[key]!r} there and "
                f"{settings[key]!r} now; give another --run"
            )


def stratified_networks(space: Space, count: int, seed: int) -> list[Architecture]:
    """Return up to `count` different networks of `space`, one at random from each of as many strata of MACs.

    The strata are of equal share of what uniform choices give, so that the set is a fair sample of the space, with
    its ends in it.
    """
    drawn = sample_networks(space, DRAWN_PER_NETWORK * count, f"{space.name} reference {seed}")
    drawn.sort(key=lambda arch: totals(trace(arch)).macs)
    rng = random.Random(seed)
    edges = [len(drawn) * index // count for index in range(count + 1)]
    return [rng.choice(drawn[low:high]) for low, high in itertools.pairwise(edges) if high > low]


def threads_of(jobs: int) -> int:
    """Return the threads of each of `jobs` trainings at a time."""
    return max(1, (os.cpu_count() or 1) // jobs)


def train_reference(
    pending: Sequence[tuple[Architecture, int]], space: Space, data: str, root: str | None, jobs: int
) -> Iterator[Training]:
    """Train each network with its seed by the space's proxy, `jobs` at a time, and yield them as they finish.

    Each training has a process with `threads_of(jobs)` threads, for one job as for several. Raises TrainingError where
    one fails, after those that had begun.
    """
    context = multiprocessing.get_context("spawn")
    failed: Exception | None = None
    with ProcessPoolExecutor(min(jobs, len(pending)), context, _begin, (space, data, root, threads_of(jobs))) as pool:
        waiting = [pool.submit(_train, arch, seed) for arch, seed in pending]
        for done in as_completed(waiting):
            try:
                yield done.result()
            except CancelledError:
                continue
            except Exception as error:
                failed = failed or error
                pool.shutdown(wait=False, cancel_futures=True)
    if isinstance(failed, BrokenProcessPool):
        raise TrainingError("a training process was killed, for want of memory perhaps: give fewer --jobs") from failed
    if failed is not None:
        raise failed


_EVALUATORS: list[ProxyTraining] = []
"""The one evaluator of a process that trains."""


def _begin(space: Space, data: str, root: str | None, threads: int) -> None:
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _EVALUATORS[:] = [ProxyTraining(EvaluatorContext(Classification.load(data, root), space, Path()))]


def _end_with_parent() -> None:
    """End this process when its parent has died, however it died: nobody would take what it trains."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(arch: Architecture, seed: int) -> Training:
    started = time.process_time()
    curve = tuple(_EVALUATORS[0].evaluate(arch, seed))
    return Training(arch, seed, curve, time.process_time() - started)
