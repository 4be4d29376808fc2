"""Studies: the durable record of a search, stored by Optuna and read as typed trials.

A process claims a candidate before it evaluates it (`nas.study.trial_ownership`). When the evaluation ends, it writes
the result first and the state last. So after a kill the study holds complete results and the claims to take over.
Several processes can share one study; several machines can if it is in a database.
"""

from __future__ import annotations

import contextlib
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.architecture import Scalar
from nas.errors import NasError, RunError
from nas.spaces.search_space import Choices, Searched
from nas.study.evaluation_noise import NoiseModel, fit
from nas.study.objectives import Metrics
from nas.study.process_liveness import Participants
from nas.study.storage import BEGIN, CARD, FINISH, JOURNAL, PASSING, STUDY_NAME, check_kept, check_run, open_storage
from nas.study.trial_ownership import ENDED, FAILED, RUNNING, WITHDRAWN, Claim, OwnershipLedger, claim_of
from nas.study.trial_store import TrialStore, begin, evaluated, find
from nas.study.trials import Repeat, Trial, TrialState, trial_of
from nas.utils.files import IMAGE_RECORD, LOCK, exclusive

__all__ = [
    "FINISH",
    "JOURNAL",
    "RESULT",
    "STUDY_NAME",
    "Repeat",
    "Study",
    "Trial",
    "TrialState",
    "check_run",
    "open_study",
    "read_trials",
]

RESULT = "result.json"
REPEAT = "repeat "
"""The prefix of the study attributes that store repeats."""
FACT = "fact "
"""The prefix of the study attributes that store decisions about the whole search."""
WORKER = "worker "
"""The prefix of the study attributes that store the heartbeats of processes."""


class Study:
    """The trials of one experiment, as of the last `refresh`. Use `open_study` to get one.

    Attributes:
        folder: The run folder.
        evaluated: The complete and the stopped trials, by number.
        ended: Every evaluation that ended, in the order in which this process saw it. Controllers learn in this order.
        ended_here: How many evaluations this process ended.
        repeats: The repeated evaluations of finalists, by their key.
    """

    def __init__(self, folder: Path, store: TrialStore, space: Searched, workers: Participants):
        self.folder = folder
        self._store, self._space, self._workers = store, space, workers
        self._ledger = OwnershipLedger()
        self._stored: dict[int, Any] = {}
        self._finished_prefix = 0
        self._own_claims: set[int] = set()
        self._half_withdrawn: set[int] = set()
        self._failed: dict[str, Trial] = {}
        self.evaluated: list[Trial] = []
        self.ended: list[Trial] = []
        self.ended_here = 0
        self.repeats: dict[tuple[str, int, int], Repeat] = {}
        self.refresh()
        self.refresh_repeats()

    @property
    def trials(self) -> list[Trial]:
        """The complete trials."""
        return [trial for trial in self.evaluated if trial.state is TrialState.COMPLETE]

    @property
    def stopped(self) -> list[Trial]:
        """The trials that early stopping ended."""
        return [trial for trial in self.evaluated if trial.state is TrialState.STOPPED]

    @property
    def failed(self) -> list[Trial]:
        """The failed trials, by number."""
        return sorted(self._failed.values(), key=lambda trial: trial.number)

    @property
    def count(self) -> int:
        """The number of complete, stopped and failed trials."""
        return len(self.evaluated) + len(self._failed)

    @property
    def claimed(self) -> int:
        """The number of trials, running ones of all processes included."""
        return len(self._ledger)

    @property
    def digests(self) -> Set[str]:
        """The digests of all trials, running ones included."""
        return self._ledger.digests

    @property
    def pending(self) -> list[Choices]:
        """The choices of the running trials of all processes."""
        return [self.choices_of(claim) for claim in self._running()]

    def accuracies(self, before: int | None = None) -> dict[str, list[float]]:
        """Return all accuracies of each complete trial, by digest: that of the search first, then those of repeats.

        Args:
            before: Use only the repeats that were made when fewer candidates than this had been tried.
        """
        found = {trial.digest: [trial.metrics.accuracy] for trial in self.trials}
        for repeat in self.repeats.values():
            if repeat.longer == 1 and repeat.error is None and (before is None or repeat.after < before):
                found[repeat.repeat_of].append(repeat.curve[-1])
        return found

    @property
    def noise(self) -> NoiseModel | None:
        """The noise of evaluations and the spread of candidates; None before the first repeat."""
        return fit(list(self.accuracies().values())) if self.repeats else None

    def refresh(self) -> None:
        """Read what other processes wrote. Raises RunError if the storage cannot be reached."""
        found = self._store.trials()
        for frozen in found[self._finished_prefix :]:
            if self._stored.get(frozen.number) is not frozen:
                self._take(frozen)
        while self._finished_prefix < len(found) and found[self._finished_prefix].state.is_finished():
            self._finished_prefix += 1

    def refresh_repeats(self) -> None:
        """Read the repeats that other processes wrote."""
        for name, value in self._store.attributes().items():
            if name.startswith(REPEAT):
                repeat = Repeat(**{**value, "curve": tuple(value["curve"])})
                self.repeats.setdefault(repeat.key, repeat)

    def claim(self, choices: Choices, digest: str, trials: int | None = None) -> Claim | None:
        """Claim a new candidate. Return None if another process owns it, or if `trials` are claimed already."""
        claim = self._write_claim(choices, {"digest": digest})
        if self._ledger.wins(claim.number) and (trials is None or self._ledger.ordinal(digest) < trials):
            return claim
        self._withdraw(claim)
        return None

    def claim_again(self, old: Claim, saved: int = 0) -> Claim | None:
        """Claim the candidate of a dead process, of whose evaluation `saved` epochs are saved, or a failed one.

        Returns None if another process was faster.
        """
        attempt = old.next_attempt(saved) if old.state == RUNNING else 1
        attributes = {"digest": old.digest, "attempt": attempt, "replaces": old.number, "saved": saved}
        claim = self._write_claim(self.choices_of(old), attributes)
        if self._ledger.wins(claim.number) and old.state == RUNNING:
            self._withdraw(old)
        if self._ledger.wins(claim.number):  # else the process of the old claim is alive and has ended it
            self._workers.forget(old.worker)
            return claim
        self._withdraw(claim)
        return None

    def stale(self) -> list[Claim]:
        """Return the claims of dead processes, by number. Withdraw those whose candidate has another owner."""
        for number in sorted(self._half_withdrawn):
            self._take(self._store.finish(number, {}, "FAIL"))
        found = []
        for claim in list(self._ledger.running.values()):
            if claim.number in self._own_claims or (not claim.released and self._workers.is_alive(claim.worker)):
                continue
            if self._ledger.wins(claim.number):
                found.append(claim)
            else:
                self._withdraw(claim)
        return sorted(found, key=lambda claim: self._ledger.ordinal(claim.digest))

    def failed_claims(self) -> list[Claim]:
        """Return the claims of the failed candidates, by number."""
        heads = (self._ledger.head(trial.digest) for trial in self.failed)
        return [head for head in heads if head is not None and head.state == FAILED]

    def is_current(self, claim: Claim) -> bool:
        """Whether a claim still owns its candidate and its state has not changed."""
        return self._ledger.head(claim.digest) == claim

    def is_awaited(self, trials: int) -> bool:
        """Whether one of the first `trials` candidates is running."""
        return any(self._ledger.ordinal(claim.digest) < trials for claim in self._running())

    def choices_of(self, claim: Claim) -> dict[str, Scalar]:
        """Return the choices of a claimed candidate."""
        return dict(self._stored[claim.number].params)

    def number_of(self, claim: Claim) -> int:
        """Return the number of the trial of a claimed candidate."""
        return self._ledger.ordinal(claim.digest)

    def end(
        self,
        claim: Claim,
        metrics: Metrics,
        values: tuple[float, ...],
        duration_s: float,
        curve: tuple[float, ...] = (),
        stopped: bool = False,
    ) -> Trial | None:
        """Write the result of a claim.

        Args:
            claim: The claim of this process.
            metrics: The metrics.
            values: The objective's values of the metrics.
            duration_s: How long the evaluation took, in seconds.
            curve: The accuracy after each epoch; empty for the one accuracy of the metrics.
            stopped: Whether early stopping ended the evaluation after the epochs of the curve.

        Returns:
            The trial; None if another process took the candidate over because it considered this process dead.
        """
        attributes: dict[str, Any] = {
            "duration_s": round(duration_s, 3),
            "curve": list(curve) or [metrics.accuracy],
            **({"stopped_at": len(curve)} if stopped else {}),
            "metrics": metrics.to_dict(),
        }
        if not self._finish(claim, attributes, "PRUNED" if stopped else "COMPLETE", values):
            return None
        return next(trial for trial in self.evaluated if trial.digest == claim.digest)

    def fail(self, claim: Claim, reason: str) -> bool:
        """Write why an evaluation failed. Return False if another process took the candidate over."""
        return self._finish(claim, {"error": reason}, "FAIL")

    def record_repeat(self, repeat: Repeat) -> None:
        """Write a repeated evaluation of a finalist."""
        self._store.set_attribute(REPEAT + "/".join(map(str, repeat.key)), asdict(repeat))
        self.repeats[repeat.key] = repeat

    def fact(self, name: str) -> Any:
        """Return what `record_fact` wrote last under a name, by any process; None if nothing."""
        return self._store.attributes().get(FACT + name)

    def record_fact(self, name: str, value: Any) -> None:
        """Write a decision about the whole search, such as its plan, as a JSON value."""
        self._store.set_attribute(FACT + name, value)

    def release(self) -> None:
        """Leave the running candidates of this process to other processes or to the next command."""
        for number in sorted(self._own_claims):
            with contextlib.suppress(Exception):  # then the claim counts as that of a dead process
                self._store.mark(number, "released", True)
        self._own_claims.clear()

    def _running(self) -> list[Claim]:
        return [claim for claim in self._ledger.running.values() if self._ledger.wins(claim.number)]

    def _write_claim(self, choices: Choices, attributes: Mapping[str, Any]) -> Claim:
        """Write a running trial in one write, read everything written before it, and return its claim."""
        number = self._store.create(choices, self._space.choices, {**attributes, "worker": self._workers.me})
        self._own_claims.add(number)
        self.refresh()
        return self._ledger.claims[number]

    def _finish(self, claim: Claim, attributes: Mapping[str, Any], state: str, values: Sequence[float] = ()) -> bool:
        """End a claim. Return whether this end counts; it does not if another process ended it before."""
        self._own_claims.discard(claim.number)
        self._take(self._store.finish(claim.number, attributes, state, values))
        intended = FAILED if state == "FAIL" else ENDED
        counts = self._ledger.wins(claim.number) and self._ledger.claims[claim.number].state == intended
        self.ended_here += counts
        return counts

    def _withdraw(self, claim: Claim) -> None:
        self._finish(claim, {"withdrawn": True}, "FAIL")

    def _take(self, frozen: Any) -> None:
        """Take in an Optuna trial that is new or has changed."""
        self._stored[frozen.number] = frozen
        claim = claim_of(frozen)
        if claim is not None and claim.state == WITHDRAWN and not frozen.state.is_finished():
            self._half_withdrawn.add(frozen.number)  # the owner was killed between two writes, or is about to end it
        else:
            self._half_withdrawn.discard(frozen.number)
        if claim is None or claim == self._ledger.claims.get(claim.number):
            return
        others_moved = self._ledger.take(claim)
        if self._ledger.wins(claim.number) and claim.state in (ENDED, FAILED):
            self._add(trial_of(frozen, self._ledger.ordinal(claim.digest), self._space))
        if others_moved:
            self._renumber()

    def _add(self, trial: Trial) -> None:
        """Add a trial that ended."""
        self.ended.append(trial)
        if trial.state is TrialState.FAILED:
            self._failed[trial.digest] = trial
        else:
            self._failed.pop(trial.digest, None)
            insort(self.evaluated, trial, key=lambda other: other.number)

    def _renumber(self) -> None:
        """Number all trials again, after the claim of an earlier candidate was withdrawn."""

        def renumbered(trial: Trial) -> Trial:
            return replace(trial, number=self._ledger.ordinal(trial.digest))

        self.evaluated = sorted(map(renumbered, self.evaluated), key=lambda trial: trial.number)
        self._failed = {digest: renumbered(trial) for digest, trial in self._failed.items()}


@contextlib.contextmanager
def open_study(
    folder: Path, settings: dict[str, Any], space: Searched, directions: tuple[str, ...], url: str | None = None
) -> Iterator[Study]:
    """Open the study of a run folder, or begin it. Other processes may use it at the same time.

    If a NasError ends the block before anything was tried, the folder is left as it was, so that a corrected command
    can use it.

    Args:
        folder: The run folder.
        settings: What identifies the experiment.
        space: The search space, which decodes the stored choices.
        directions: "maximize" or "minimize" for each value of the objective.
        url: The database that holds the study; None for the journal in the folder.

    Raises:
        RunError: The study belongs to another experiment, or cannot be reached.
    """
    check_kept(folder, settings, url)
    storage = open_storage(folder, url) if url else None
    workers = _join(folder)
    try:
        with exclusive(folder / BEGIN):
            store = begin(folder, storage or open_storage(folder, None), url, settings, directions)
        if url:
            workers.start_heartbeat(
                lambda worker, beat: store.set_attribute(WORKER + worker, beat),
                lambda worker: store.attributes().get(WORKER + worker),
            )
        study = Study(folder, store, space, workers)
        try:
            yield study
        except NasError:
            study.release()
            if not study.count:
                _remove_unused(folder, workers, store)
            raise
        finally:
            study.release()
    finally:
        workers.close()


def read_trials(folder: Path, space: Searched) -> list[Trial]:
    """Return the complete and stopped trials of a run folder, by number, without writing anything.

    Raises RunError if the folder is not a run folder or its storage cannot be read.
    """
    return [trial_of(frozen, number, space) for number, frozen in evaluated(find(folder))]


def _join(folder: Path) -> Participants:
    """Register this process in a run folder, and make the folder if necessary."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Participants(folder)
        except FileNotFoundError:  # another process has just removed the unused folder
            continue
        except OSError as error:
            raise RunError(f"cannot be made: {error}", where=folder) from error


def _remove_unused(folder: Path, workers: Participants, store: TrialStore) -> None:
    """Remove the study of a run in which nothing was tried, so that a corrected command can use the folder.

    Keep it if another process uses it, or if an evaluator has stored state in the folder: that state belongs to the
    settings in the journal.
    """
    ours = {JOURNAL, CARD, *PASSING}
    with exclusive(folder / BEGIN):
        elsewhere = any(name.startswith(WORKER) and name != WORKER + workers.me for name in store.attributes())
        if elsewhere or workers.others() or not {path.name for path in folder.iterdir()} <= ours:
            return
        if (folder / CARD).is_file() and not store.forget_empty():
            return
        for name in (JOURNAL, CARD, LOCK, FINISH, IMAGE_RECORD):
            (folder / name).unlink(missing_ok=True)
    workers.close()
    with contextlib.suppress(OSError):  # some systems do not remove the current directory
        folder.rmdir()
