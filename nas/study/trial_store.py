"""Trial stores: read and write the trials of one study in an Optuna storage."""

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
    database_place,
    open_to_read,
    reaching,
    same_experiment,
    study_name,
    write_card,
)
from nas.study.trial_ownership import ENDED, OwnershipLedger, claim_of
from nas.utils.files import read_json
from nas.utils.run_identity import with_new_settings

Values = tuple[Scalar, ...]


class TrialStore:
    """One study of an Optuna storage.

    Args:
        storage: The Optuna storage.
        study_id: Optuna's id of the study.
        place: Where the study is, for error messages. Every method raises RunError if the storage fails.
    """

    def __init__(self, storage: Any, study_id: int, place: str):
        self._storage, self._id, self._place = storage, study_id, place

    def trials(self) -> list[Any]:
        """Return all Optuna trials, by number. An unchanged trial is the same object as in the last call."""
        with reaching(self._place):
            found: list[Any] = self._storage.get_all_trials(self._id, deepcopy=False)
        return found

    def create(self, choices: Mapping[str, Scalar], known: Mapping[str, Values], attributes: Mapping[str, Any]) -> int:
        """Write a running trial in one write, and return its number. From then on, all lower numbers can be read.

        Args:
            choices: The choices of the candidate.
            known: The possible values of each choice.
            attributes: The user attributes of the trial.
        """
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
        """Write attributes first and the state last, and return the trial.

        If another process finished the trial before, nothing is written.

        Args:
            number: The number of the trial.
            attributes: The user attributes to add.
            state: "COMPLETE", "PRUNED" or "FAIL".
            values: The objective's values.
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
        """Write a user attribute of a running trial."""
        with reaching(self._place):
            self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def attributes(self) -> dict[str, Any]:
        """Return the user attributes of the study."""
        with reaching(self._place):
            return dict(self._storage.get_study_user_attrs(self._id))

    def set_attribute(self, name: str, value: Any) -> None:
        """Write a user attribute of the study."""
        with reaching(self._place):
            self._storage.set_study_user_attr(self._id, name, value)

    def forget_empty(self) -> bool:
        """Remove the study if it has no trials. Return whether it was removed."""
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
    """Open or create the study of a run folder. Raises RunError if it belongs to another experiment."""
    name = study_name(folder, url)
    place = database_place(folder, url) if url else str(folder)
    with reaching(str(folder / JOURNAL) if url is None else place):
        store = TrialStore(storage, _study(storage, name, directions), place)
    known = store.attributes()
    if "settings" not in known:
        if store.trials():
            raise RunError("was not made by a search; give another --run", where=place)
        store.set_attribute("settings", dict(settings))
        known = store.attributes()
    same_experiment(place, known["settings"], settings)
    completed = with_new_settings(known["settings"], settings)
    if completed != known["settings"]:  # an older version did not record all of them
        store.set_attribute("settings", completed)
    if url:
        write_card(folder, settings, url)
    return store


def find(folder: Path) -> TrialStore:
    """Return the study of a run folder for reading. Raises RunError if there is none."""
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    if not card and not (folder / JOURNAL).is_file():
        raise RunError(f"is not a run folder: it has no {JOURNAL}", where=folder)
    storage = open_to_read(folder, card.get("storage"))
    try:
        return TrialStore(storage, storage.get_study_id_from_name(card.get("study", STUDY_NAME)), str(folder))
    except KeyError:
        raise RunError("its storage has no study", where=folder, value=card.get("study", STUDY_NAME)) from None


def evaluated(store: TrialStore) -> list[tuple[int, Any]]:
    """Return the number and the Optuna trial of each complete or stopped trial, by number."""
    ledger, found = OwnershipLedger(), {frozen.number: frozen for frozen in store.trials()}
    for frozen in found.values():
        if claim := claim_of(frozen):
            ledger.take(claim)
    heads = [ledger.head(digest) for digest in ledger.digests]
    ended = [(ledger.ordinal(head.digest), found[head.number]) for head in heads if head and head.state == ENDED]
    return sorted(ended, key=lambda each: each[0])


def _study(storage: Any, name: str, directions: tuple[str, ...]) -> int:
    """Return the id of a study, and create the study if necessary. Another process may create it first."""
    import optuna

    try:
        return int(storage.get_study_id_from_name(name))
    except KeyError:
        wanted = [optuna.study.StudyDirection[direction.upper()] for direction in directions]
    try:
        return int(storage.create_new_study(wanted, name))
    except optuna.exceptions.DuplicatedStudyError:
        return int(storage.get_study_id_from_name(name))
