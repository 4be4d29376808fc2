"""A run's durable state: an Optuna study in the run's folder, and its typed view.

A trial is written once, when it is finished, in one journal line, and so is a finalist's evaluation with another seed:
whatever kills the process, the journal holds finished work and nothing else, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import NasError, RunError
from nas.files import LOCK, check_same_settings, drop_cut_line, locked
from nas.objective import Metrics
from nas.shrinkage import Spread, fit
from nas.space import Choices, Space

JOURNAL = "journal.log"
RESULT = "result.json"
STUDY_NAME = "nas"
REPEAT = "repeat "
"""Begins the names of the study's user attributes that hold repeats."""


@dataclass(frozen=True)
class Trial:
    """A candidate that was evaluated; `values` are what the objective gave for `metrics`.

    `curve` is the accuracy after each epoch, the last of them that of the metrics. Where a rung stopped it,
    `stopped_at` is the number of epochs that it got.
    """

    number: int
    choices: dict[str, Scalar]
    architecture: Architecture
    metrics: Metrics
    values: tuple[float, ...]
    duration_s: float
    curve: tuple[float, ...] = ()
    stopped_at: int | None = None


@dataclass(frozen=True)
class Repeat:
    """A finalist evaluated again, with another seed and `longer` times the epochs; `error` if that failed.

    `after` is how many candidates had been tried: what a search knew before it chose its finalists is told from what
    it learnt of them.
    """

    repeat_of: str
    seed: int
    longer: int
    after: int
    curve: tuple[float, ...]
    error: str | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What it was: architecture, seed and length."""
        return self.repeat_of, self.seed, self.longer


class Study:
    """The trials of one experiment. Use `open_study`."""

    def __init__(self, folder: Path, study: Any, space: Space):
        self.folder = folder
        self._study, self._space = study, space
        self.evaluated: list[Trial] = []
        self.failed: list[tuple[str, str]] = []
        self.repeats: dict[tuple[str, int, int], Repeat] = {}
        for frozen in study.get_trials(deepcopy=False):
            self._take(frozen)
        for name, value in study.user_attrs.items():
            if name.startswith(REPEAT):
                repeat = Repeat(**{**value, "curve": tuple(value["curve"])})
                self.repeats[repeat.key] = repeat

    @property
    def trials(self) -> list[Trial]:
        """The candidates that were evaluated to the end."""
        return [trial for trial in self.evaluated if trial.stopped_at is None]

    @property
    def stopped(self) -> list[Trial]:
        """The candidates that a rung stopped."""
        return [trial for trial in self.evaluated if trial.stopped_at is not None]

    @property
    def count(self) -> int:
        """How many candidates were tried, stopped and failed ones included."""
        return len(self.evaluated) + len(self.failed)

    @property
    def digests(self) -> set[str]:
        """The architectures that were tried."""
        return {trial.architecture.digest for trial in self.evaluated} | {digest for digest, _ in self.failed}

    def accuracies(self, before: int | None = None) -> dict[str, list[float]]:
        """Return the accuracies of each finished trial, by digest: the search's own first, then those of other seeds.

        Of the repeats, only those made when fewer than `before` candidates had been tried, where that is given.
        """
        found = {trial.architecture.digest: [trial.metrics.accuracy] for trial in self.trials}
        for repeat in self.repeats.values():
            if repeat.longer == 1 and repeat.error is None and (before is None or repeat.after < before):
                found[repeat.repeat_of].append(repeat.curve[-1])
        return found

    @property
    def noise(self) -> Spread | None:
        """How far evaluations of one candidate differ, and candidates among each other; None before any repeat."""
        return fit(list(self.accuracies().values()))

    def record(
        self,
        choices: Choices,
        arch: Architecture,
        metrics: Metrics,
        values: tuple[float, ...],
        duration_s: float,
        curve: tuple[float, ...] = (),
        stopped: bool = False,
    ) -> Trial:
        """Write a finished trial and return it; `stopped` where a rung ended it after the epochs of its curve."""
        attributes = {
            "digest": arch.digest,
            "architecture": arch.to_dict(),
            "metrics": metrics.to_dict(),
            "duration_s": round(duration_s, 3),
            "curve": list(curve) or [metrics.accuracy],
        }
        if stopped:
            attributes["stopped_at"] = len(curve)
        self._add(choices, attributes, values)
        return self.evaluated[-1]

    def record_repeat(self, repeat: Repeat) -> None:
        """Write a finished evaluation of a finalist with another seed."""
        with self._writing():
            self._study.set_user_attr(REPEAT + "/".join(map(str, repeat.key)), asdict(repeat))
        self.repeats[repeat.key] = repeat

    def record_failure(self, choices: Choices, arch: Architecture, reason: str) -> None:
        """Write a candidate that could not be evaluated, with the reason."""
        self._add(choices, {"digest": arch.digest, "error": reason}, None)

    def _add(self, choices: Choices, attributes: Mapping[str, Any], values: tuple[float, ...] | None) -> None:
        import optuna

        states = optuna.trial.TrialState
        ended = states.PRUNED if "stopped_at" in attributes else states.COMPLETE
        trial = optuna.trial.create_trial(
            state=states.FAIL if values is None else ended,
            params=dict(choices),
            distributions={
                key: optuna.distributions.CategoricalDistribution(self._space.choices[key]) for key in choices
            },
            values=None if values is None else list(values),
            user_attrs=dict(attributes),
        )
        with self._writing():
            self._study.add_trial(trial)
        self._take(self._study.get_trials(deepcopy=False)[-1])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self.folder}: the trial cannot be written: {error}") from error

    def _take(self, frozen: Any) -> None:
        attributes = frozen.user_attrs
        if "error" in attributes:
            self.failed.append((attributes["digest"], attributes["error"]))
        elif frozen.state.is_finished():
            self.evaluated.append(
                Trial(
                    number=frozen.number,
                    choices=dict(frozen.params),
                    architecture=Architecture.from_dict(attributes["architecture"]),
                    metrics=Metrics(**attributes["metrics"]),
                    values=tuple(frozen.values),
                    duration_s=attributes["duration_s"],
                    curve=tuple(attributes.get("curve", [attributes["metrics"]["accuracy"]])),
                    stopped_at=attributes.get("stopped_at"),
                )
            )


@contextlib.contextmanager
def open_study(folder: Path, settings: dict[str, Any], space: Space, directions: tuple[str, ...]) -> Iterator[Study]:
    """Give the study of a run folder, begun where there is none; no other process can open it meanwhile.

    `settings` is what makes the experiment. Raises RunError where the folder holds another one or is in use.
    A mistake that is found before anything was tried (NasError) leaves the folder as free as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error}") from error
    with locked(folder):
        _recover(folder / JOURNAL)
        study = _optuna_study(folder, directions)
        if not study.user_attrs:
            study.set_user_attr("settings", settings)
        _same_experiment(folder, study.user_attrs.get("settings"), settings)
        opened = Study(folder, study, space)
        try:
            yield opened
        except NasError:
            if not opened.count:
                _leave_free(folder)
            raise


def _leave_free(folder: Path) -> None:
    """Remove the journal of a run in which nothing was done, so that a corrected command may use the folder.

    Not where an evaluator has its state beside it: that belongs to the settings which the journal holds.
    """
    found = list(folder.iterdir())
    if {path.name for path in found} <= {JOURNAL, LOCK}:
        for path in found:
            path.unlink()
        with contextlib.suppress(OSError):  # the current directory, on some systems
            folder.rmdir()


def check_run(folder: Path, settings: dict[str, Any]) -> None:
    """Raise RunError where `folder` holds another experiment or something else; writes nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: not a folder")
    journal = folder / JOURNAL
    if not journal.is_file():
        if any(path.name != LOCK for path in folder.iterdir()):
            raise RunError(f"{folder}: is not a run folder: it has files, but no {JOURNAL}")
        return
    _same_experiment(folder, _stored_settings(journal), settings)


def _stored_settings(journal: Path) -> dict[str, Any] | None:
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                found = json.loads(line).get("user_attr", {}).get("settings")
                if found is not None:
                    return dict(found)
    return None


def _same_experiment(folder: Path, stored: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    if stored is not None:
        check_same_settings(folder, stored, settings, "--run")


def _optuna_study(folder: Path, directions: tuple[str, ...]) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            return optuna.create_study(
                storage=storage, study_name=STUDY_NAME, directions=list(directions), load_if_exists=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{folder / JOURNAL}: cannot be read as a journal: {error}") from error


def _recover(journal: Path) -> None:
    """Drop what a crash in the middle of a write left: a line that is not whole, and Optuna's own lock."""
    if not journal.is_file():
        return
    with journal.open("r+b") as file:
        drop_cut_line(file)
    for lock in journal.parent.glob(f"{JOURNAL}.lock*"):
        lock.unlink()
