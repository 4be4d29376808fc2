"""One study of an Optuna storage, as its trials are claimed and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.architecture import Scalar
from nas.errors import RunError
from nas.study.storage import (
    CARD,
    JOURNAL,
    STUDY_NAME,
    TABLE_DIGEST,
    database_place,
    open_to_read,
    reaching,
    same_experiment,
    study_name,
    write_card,
)
from nas.study.trial_ownership import ENDED, OwnershipLedger, claim_of
from nas.utils.files import read_json

Values = tuple[Scalar, ...]


class TrialStore:
    """Reads and writes what Optuna keeps of a study. `place` begins the message of each RunError that it raises."""

    def __init__(self, storage: Any, study_id: int, place: str):
        self._storage, self._id, self._place = storage, study_id, place

    def trials(self) -> list[Any]:
        """Return all trials by number, as they are now; one that has not changed is the same object."""
        with reaching(self._place):
            found: list[Any] = self._storage.get_all_trials(self._id, deepcopy=False)
        return found

    def create(self, choices: Mapping[str, Scalar], known: Mapping[str, Values], attributes: Mapping[str, Any]) -> int:
        """Write a running trial, in one write, and return its number; all lower numbers can be read from now on."""
        import optuna

        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=dict(choices),
            distributions={key: optuna.distributions.CategoricalDistribution(known[key]) for key in choices},
            user_attrs=dict(attributes),
        )
        with reaching(self._place):
            trial_id = self._storage.create_new_trial(self._id, template)
            return int(self._storage.get_trial(trial_id).number)

    def finish(self, number: int, attributes: Mapping[str, Any], state: str, values: Sequence[float] = ()) -> Any:
        """Write attributes, then the state ("COMPLETE", "PRUNED", "FAIL"); return the trial as it is afterwards.

        Where another process finished it before, that stands.
        """
        import optuna

        with reaching(self._place):
            trial_id = self._trial_id(number)
            try:
                for key, value in attributes.items():
                    self._storage.set_trial_user_attr(trial_id, key, value)
                self._storage.set_trial_state_values(trial_id, optuna.trial.TrialState[state], list(values) or None)
            except optuna.exceptions.UpdateFinishedTrialError:
                pass
            return self._storage.get_trial(trial_id)

    def mark(self, number: int, key: str, value: Any) -> None:
        """Write an attribute of a running trial."""
        with reaching(self._place):
            self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the study."""
        with reaching(self._place):
            return dict(self._storage.get_study_user_attrs(self._id))

    def set_attribute(self, name: str, value: Any) -> None:
        """Write an attribute of the study."""
        with reaching(self._place):
            self._storage.set_study_user_attr(self._id, name, value)

    def forget_empty(self) -> bool:
        """Remove the study where it has no trials; return whether it had none."""
        if self.trials():
            return False
        with reaching(self._place):
            self._storage.delete_study(self._id)
        return True

    def _trial_id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))


def begin(
    folder: Path, storage: Any, url: str | None, settings: Mapping[str, Any], directions: tuple[str, ...]
) -> TrialStore:
    """Return the study of a run's folder in its storage, begun where there is none.

    Raises RunError where it is another experiment's.
    """
    name = study_name(folder, url)
    place = database_place(folder, url) if url else str(folder)
    with reaching(str(folder / JOURNAL) if url is None else place):
        store = TrialStore(storage, _study(storage, name, directions), place)
    known = store.attributes()
    if "settings" not in known:
        if store.trials():
            raise RunError(f"{place}: was not made by a search; give another --run")
        store.set_attribute("settings", dict(settings))
        known = store.attributes()
    same_experiment(place, known["settings"], settings)
    if TABLE_DIGEST in settings and TABLE_DIGEST not in known["settings"]:  # a run folder from before there was one
        store.set_attribute("settings", {**known["settings"], TABLE_DIGEST: settings[TABLE_DIGEST]})
    if url:
        write_card(folder, settings, url)
    return store


def find(folder: Path) -> TrialStore:
    """Return the study of a run's folder for reading, wherever it is kept. Raises RunError where there is none."""
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    if not card and not (folder / JOURNAL).is_file():
        raise RunError(f"{folder}: is not a run folder: it has no {JOURNAL}")
    storage = open_to_read(folder, card.get("storage"))
    try:
        return TrialStore(storage, storage.get_study_id_from_name(card.get("study", STUDY_NAME)), str(folder))
    except KeyError:
        raise RunError(f"{folder}: its storage has no study '{card.get('study', STUDY_NAME)}'") from None


def evaluated(store: TrialStore) -> list[tuple[int, Any]]:
    """Return the candidates of a study that were evaluated, by number, with their Optuna trials; no withdrawn ones."""
    ledger, found = OwnershipLedger(), {frozen.number: frozen for frozen in store.trials()}
    for frozen in found.values():
        if claim := claim_of(frozen):
            ledger.take(claim)
    heads = [ledger.head(digest) for digest in ledger.digests]
    ended = [(ledger.ordinal(head.digest), found[head.number]) for head in heads if head and head.state == ENDED]
    return sorted(ended, key=lambda each: each[0])


def _study(storage: Any, name: str, directions: tuple[str, ...]) -> int:
    """Return the id of a study, begun where there is none; who else begins it meanwhile is right."""
    import optuna

    try:
        return int(storage.get_study_id_from_name(name))
    except KeyError:
        ways = [optuna.study.StudyDirection[direction.upper()] for direction in directions]
    try:
        return int(storage.create_new_study(ways, name))
    except optuna.exceptions.DuplicatedStudyError:
        return int(storage.get_study_id_from_name(name))
