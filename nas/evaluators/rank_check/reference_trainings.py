"""Reference trainings: networks of a space, each trained alone with one or more seeds. They judge the evaluators.

They are stored as JSON lines: a header with the settings, then one line for each finished training. A killed check
loses only the trainings that were running.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.executors.base import Outcome, Task, evaluate_all
from nas.evaluators.executors.processes import ProcessBackend
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor
from nas.evaluators.proxy_training import ProxyTraining
from nas.networks.network import totals, trace
from nas.spaces.sampling import one_per_stratum, sample_networks
from nas.spaces.search_space import Space
from nas.training.loop import TrainingError
from nas.training.tasks.registry import load_task
from nas.utils.files import append_rows
from nas.utils.reporting import Reporter
from nas.utils.run_identity import FORMER_VALUES, IMAGES_KEY, SOURCE_CODE, difference

FORMAT = 1
SAMPLES_PER_NETWORK = 20


@dataclass(frozen=True)
class Training:
    """A finished training of a network.

    Attributes:
        arch: The network.
        seed: The seed of the training.
        curve: The metric on the validation images, in [0, 1], after each epoch.
        processor_s: The processor time of the training in seconds.
    """

    arch: Architecture
    seed: int
    curve: tuple[float, ...]
    processor_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the file. `macs` and `params` are only for readers of the file."""
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
        """Return the training of a line. Raises RunError if the line is invalid."""
        try:
            curve = tuple(float(value) for value in data["curve"])
            seed, seconds = int(data["seed"]), float(data["processor_s"])
            arch = Architecture.from_dict(data["architecture"], where)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"not a finished training ({error!r})", where=where) from error
        if not curve or not all(0 <= value <= 1 for value in curve):
            raise RunError("must be accuracies in [0, 1]", where=where, key="curve", value=list(curve))
        return cls(arch, seed, curve, seconds)


@dataclass
class ReferenceTrainings:
    """The finished trainings in a file.

    Attributes:
        path: The file.
        settings: The settings of the trainings.
        trainings: The trainings by (digest of the architecture, seed).
    """

    path: Path
    settings: dict[str, Any]
    trainings: dict[tuple[str, int], Training] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> ReferenceTrainings:
        """Read the trainings in `path`. The file need not exist yet.

        Raises:
            RunError: The file is broken, or its trainings have other settings.
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
                raise RunError(f"not JSON ({error})", where=where) from error
            if number == 1:
                _check_header(data, settings, where)
            else:
                training = Training.from_dict(data, where)
                reference.trainings[training.arch.digest, training.seed] = training
        return reference

    def add(self, training: Training) -> None:
        """Add a finished training and append it to the file. Raises RunError if the file cannot be written."""
        try:
            append_rows(self.path, {"format": FORMAT, "settings": self.settings}, [training.to_dict()])
        except OSError as error:
            raise RunError(f"cannot be written ({error})", where=self.path) from error
        self.trainings[training.arch.digest, training.seed] = training

    def missing(self, archs: Iterable[Architecture], seeds: Sequence[int]) -> list[tuple[Architecture, int]]:
        """Return the trainings that are missing: all networks with the first seed, then with the next."""
        wanted = [(arch, seed) for seed in seeds for arch in archs]
        return [(arch, seed) for arch, seed in wanted if (arch.digest, seed) not in self.trainings]

    def accuracies(self, archs: Iterable[Architecture], seeds: Sequence[int]) -> list[list[float]]:
        """Return the final accuracies: one row for each network, one column for each seed."""
        return [[self.trainings[arch.digest, seed].curve[-1] for seed in seeds] for arch in archs]


def stored_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings in the header of a file of reference trainings; None if there is no such file."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as lines, contextlib.suppress(json.JSONDecodeError):
        header = json.loads(lines.readline())
        if isinstance(header, dict) and isinstance(header.get("settings"), dict):
            return dict(header["settings"])
    return None


def _check_header(data: Any, settings: Mapping[str, Any], where: str) -> None:
    stored = data.get("settings") if isinstance(data, dict) else None
    if not isinstance(stored, dict) or data.get("format") != FORMAT:
        raise RunError(f"not the header of reference trainings of format {FORMAT}", where=where)
    stored, settings = {**FORMER_VALUES, **stored}, {**FORMER_VALUES, **settings}
    same_images = IMAGES_KEY in stored and stored[IMAGES_KEY] == settings.get(IMAGES_KEY)
    compared = (stored.keys() & settings.keys()) - ({"data"} if same_images else set())
    for key in sorted(compared):  # settings of later versions had their defaults then
        if key in SOURCE_CODE and stored[key] != settings[key]:
            raise RunError(f"{difference(key, stored, settings)}; use another --run", where=where)
        if stored[key] != settings[key]:
            rule = f"the trainings have other settings: {stored[key]!r} in the file, {settings[key]!r} now"
            raise RunError(f"{rule}; use another --run", where=where, key=key)


def stratified_networks(space: Space, count: int, seed: int) -> list[Architecture]:
    """Return up to `count` different networks of the space, sorted by MACs: a random one from each of `count` strata.

    The strata hold equal shares of the networks that random choices give, sorted by MACs. So the sample represents
    the space, including its smallest and largest networks.
    """
    samples = sample_networks(space, SAMPLES_PER_NETWORK * count, f"{space.name} reference {seed}")
    samples.sort(key=lambda arch: totals(trace(arch)).macs)
    return one_per_stratum(samples, count, random.Random(seed))


def threads_per_job(jobs: int) -> int:
    """Return the threads of each training when `jobs` run at once."""
    return max(1, (os.cpu_count() or 1) // jobs)


def train_reference(
    pending: Sequence[tuple[Architecture, int]],
    space: Space,
    data: str,
    data_root: str | None,
    jobs: int,
    reporter: Reporter,
    task_settings: Mapping[str, str] | None = None,
) -> Iterator[Training]:
    """Train networks with the space's proxy settings in other processes, and yield the trainings as they finish.

    Args:
        pending: The networks with their seeds.
        space: The space, with its proxy settings and a head for the classes of the data.
        data: The data set or image folder.
        data_root: The folder of named data sets, or None for the default.
        jobs: How many trainings run at once, each with `threads_per_job(jobs)` threads.
        reporter: Prints warnings.
        task_settings: `Task.settings`.

    Raises:
        TrainingError: A training failed. No further training is started; the running ones are yielded first.
    """
    failures: list[Outcome] = []
    build = partial(make_trainer, space, data, data_root, threads_per_job(jobs), task_settings or {})
    executor = WorkerPoolExecutor(ProcessBackend(build, jobs), None, reporter.warn)
    tasks = (Task(arch, seed) for arch, seed in pending)
    try:
        for outcome in evaluate_all(executor, itertools.takewhile(lambda _: not failures, tasks)):
            if outcome.error is None:
                yield Training(outcome.task.architecture, outcome.task.seed, outcome.curve, outcome.processor_s)
            else:
                failures.append(outcome)
    finally:
        executor.close()
    if failures:
        first = failures[0]
        advice = "; fewer --jobs need less memory" if first.crashed else ""
        raise TrainingError(f"the training of {first.task.architecture.digest} failed: {first.error}{advice}")


def make_trainer(
    space: Space, data: str, data_root: str | None, threads: int, task_settings: Mapping[str, str]
) -> ProxyTraining:
    """Create the trainer in a worker process, which computes with `threads` threads from then on."""
    import torch

    torch.set_num_threads(threads)
    task = load_task(data, data_root, {**FORMER_VALUES, **task_settings}).for_input(space.input)
    return ProxyTraining(EvaluatorContext(task, space, Path()), keeps_stuck=True)
