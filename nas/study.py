"""A run's durable state: an Optuna study in the run's folder, and its typed view.

A trial is written once, when it is finished, in one journal line: whatever kills the process, the journal holds
finished trials and nothing else, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import RunError
from nas.files import check_same_settings, drop_cut_line, locked
from nas.objective import Metrics
from nas.space import Choices, Space

JOURNAL = "journal.log"
RESULT = "result.json"
STUDY_NAME = "nas"


@dataclass(frozen=True)
class Trial:
    """A finished candidate; `values` are what the objective gave for `metrics`."""

    number: int
    choices: dict[str, Scalar]
    architecture: Architecture
    metrics: Metrics
    values: tuple[float, ...]
    duration_s: float


class Study:
    """The trials of one experiment. Use `open_study`."""

    def __init__(self, folder: Path, study: Any, space: Space):
        self.folder = folder
        self._study, self._space = study, space
        self.trials: list[Trial] = []
        self.failed: list[tuple[str, str]] = []
        for frozen in study.get_trials(deepcopy=False):
            self._take(frozen)

    @property
    def count(self) -> int:
        """How many candidates were tried, failed ones included."""
        return len(self.trials) + len(self.failed)

    @property
    def digests(self) -> set[str]:
        """The architectures that were tried."""
        return {trial.architecture.digest for trial in self.trials} | {digest for digest, _ in self.failed}

    def record(
        self, choices: Choices, arch: Architecture, metrics: Metrics, values: tuple[float, ...], duration_s: float
    ) -> Trial:
        """Write a finished trial and return it."""
        attributes = {
            "digest": arch.digest,
            "architecture": arch.to_dict(),
            "metrics": metrics.to_dict(),
            "duration_s": round(duration_s, 3),
        }
        self._add(choices, attributes, values)
        return self.trials[-1]

    def record_failure(self, choices: Choices, arch: Architecture, reason: str) -> None:
        """Write a candidate that could not be evaluated, with the reason."""
        self._add(choices, {"digest": arch.digest, "error": reason}, None)

    def _add(self, choices: Choices, attributes: Mapping[str, Any], values: tuple[float, ...] | None) -> None:
        import optuna

        state = optuna.trial.TrialState
        trial = optuna.trial.create_trial(
            state=state.FAIL if values is None else state.COMPLETE,
            params=dict(choices),
            distributions={
                key: optuna.distributions.CategoricalDistribution(self._space.choices[key]) for key in choices
            },
            values=None if values is None else list(values),
            user_attrs=dict(attributes),
        )
        try:
            self._study.add_trial(trial)
        except OSError as error:
            raise RunError(f"{self.folder}: the trial cannot be written: {error}") from error
        self._take(self._study.get_trials(deepcopy=False)[-1])

    def _take(self, frozen: Any) -> None:
        attributes = frozen.user_attrs
        if "error" in attributes:
            self.failed.append((attributes["digest"], attributes["error"]))
        elif frozen.state.is_finished():
            self.trials.append(
                Trial(
                    number=frozen.number,
                    choices=dict(frozen.params),
                    architecture=Architecture.from_dict(attributes["architecture"]),
                    metrics=Metrics(**attributes["metrics"]),
                    values=tuple(frozen.values),
                    duration_s=attributes["duration_s"],
                )
            )


@contextlib.contextmanager
def open_study(folder: Path, settings: dict[str, Any], space: Space, directions: tuple[str, ...]) -> Iterator[Study]:
    """Give the study of a run folder, begun where there is none; no other process can open it meanwhile.

    `settings` is what makes the experiment. Raises RunError where the folder holds another one or is in use.
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
        yield Study(folder, study, space)


def check_run(folder: Path, settings: dict[str, Any]) -> None:
    """Raise RunError where `folder` holds another experiment or something else; writes nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: not a folder")
    journal = folder / JOURNAL
    if not journal.is_file():
        if any(path.name != ".lock" for path in folder.iterdir()):
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
