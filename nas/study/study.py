"""A run's durable state: an Optuna study, and its typed view.

A candidate is claimed before it is evaluated (`nas.study.trial_ownership`) and ended afterwards, its result first and
its state last:
whatever kills the process, the study holds finished work and what is to be taken up again. Several processes may work
on one study, and so may several machines where it is in a database.
"""

from __future__ import annotations

import contextlib
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.errors import NasError, RunError
from nas.spaces.search_space import Choices, Searched
from nas.study.evaluation_noise import NoiseModel, fit
from nas.study.objectives import Metrics
from nas.study.process_liveness import Participants
from nas.study.storage import BEGIN, CARD, FINISH, JOURNAL, PASSING, STUDY_NAME, check_kept, check_run, open_storage
from nas.study.trial_ownership import ENDED, FAILED, RUNNING, WITHDRAWN, Claim, OwnershipLedger, claim_of
from nas.study.trial_store import TrialStore, begin, evaluated, find
from nas.study.trials import Failure, Repeat, Trial, failure_of, trial_of
from nas.utils.files import LOCK, exclusive

__all__ = [
    "FINISH", "JOURNAL", "RESULT", "STUDY_NAME", "Failure", "Repeat", "Study", "Trial", "check_run", "open_study",
    "read_trials",
]  # fmt: skip

RESULT = "result.json"
REPEAT = "repeat "
"""Begins the names of the study's user attributes that hold repeats."""
WORKER = "worker "
"""Begins the names of those in which the workers of a database tell that they are alive."""


class Study:
    """The trials of one experiment, as of the last `refresh`. Use `open_study`."""

    def __init__(self, folder: Path, store: TrialStore, space: Searched, workers: Participants):
        self.folder = folder
        self._store, self._space, self._workers = store, space, workers
        self._ledger = OwnershipLedger()
        self._seen: dict[int, Any] = {}
        self._settled = 0
        self._mine: set[int] = set()
        self._half_withdrawn: set[int] = set()
        self._failures: dict[str, Failure] = {}
        self.evaluated: list[Trial] = []
        """By number."""
        self.ended: list[Trial | Failure] = []
        """Every evaluation that came to an end, as it was seen to: what a controller is told, in this order."""
        self.ended_here = 0
        """How many evaluations this process brought to an end."""
        self.repeats: dict[tuple[str, int, int], Repeat] = {}
        self.refresh()
        self.refresh_repeats()

    @property
    def trials(self) -> list[Trial]:
        """The candidates that were evaluated to the end."""
        return [trial for trial in self.evaluated if trial.stopped_at is None]

    @property
    def stopped(self) -> list[Trial]:
        """The candidates that a rung stopped."""
        return [trial for trial in self.evaluated if trial.stopped_at is not None]

    @property
    def failures(self) -> list[Failure]:
        """The candidates that failed, by number."""
        return sorted(self._failures.values(), key=lambda failure: failure.number)

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Digest and reason of each candidate that failed."""
        return [(failure.digest, failure.reason) for failure in self.failures]

    @property
    def count(self) -> int:
        """How many candidates were tried, stopped and failed ones included; those that run are not."""
        return len(self.evaluated) + len(self._failures)

    @property
    def claimed(self) -> int:
        """How many candidates were tried or are being evaluated, by whomever."""
        return len(self._ledger)

    @property
    def digests(self) -> Set[str]:
        """The architectures that were tried or are being evaluated."""
        found: Set[str] = self._ledger.digests
        return found

    @property
    def pending(self) -> list[Choices]:
        """The choices of the candidates that are being evaluated, by whomever."""
        return [self.choices_of(claim) for claim in self._running()]

    def accuracies(self, before: int | None = None) -> dict[str, list[float]]:
        """Return the accuracies of each finished trial, by digest: the search's own first, then those of other seeds.

        Of the repeats, only those made when fewer than `before` candidates had been tried, where that is given.
        """
        found = {trial.digest: [trial.metrics.accuracy] for trial in self.trials}
        for repeat in self.repeats.values():
            if repeat.longer == 1 and repeat.error is None and (before is None or repeat.after < before):
                found[repeat.repeat_of].append(repeat.curve[-1])
        return found

    @property
    def noise(self) -> NoiseModel | None:
        """How far evaluations of one candidate differ, and candidates among each other; None before any repeat."""
        return fit(list(self.accuracies().values())) if self.repeats else None

    def refresh(self) -> None:
        """See what other processes did. Raises RunError where the storage cannot be reached."""
        found = self._store.trials()
        for frozen in found[self._settled :]:
            if self._seen.get(frozen.number) is not frozen:
                self._take(frozen)
        while self._settled < len(found) and found[self._settled].state.is_finished():
            self._settled += 1

    def refresh_repeats(self) -> None:
        """See which finalists other processes evaluated again."""
        for name, value in self._store.attributes().items():
            if name.startswith(REPEAT):
                repeat = Repeat(**{**value, "curve": tuple(value["curve"])})
                self.repeats.setdefault(repeat.key, repeat)

    def claim(self, choices: Choices, digest: str, trials: int | None = None) -> Claim | None:
        """Claim a new candidate and return the claim, or None where another process has it, or `trials` are claimed."""
        claim = self._write_claim(choices, {"digest": digest})
        if self._ledger.wins(claim.number) and (trials is None or self._ledger.ordinal(digest) < trials):
            return claim
        self._withdraw(claim)
        return None

    def claim_again(self, old: Claim) -> Claim | None:
        """Claim what a dead process had claimed, or what failed; None where another process was faster."""
        attempt = old.next_attempt if old.state == RUNNING else 1
        attributes = {"digest": old.digest, "attempt": attempt, "replaces": old.number}
        claim = self._write_claim(self.choices_of(old), attributes)
        if self._ledger.wins(claim.number) and old.state == RUNNING:
            self._withdraw(old)
        if self._ledger.wins(claim.number):  # else the old one was not dead, and ended
            self._workers.forget(old.worker)
            return claim
        self._withdraw(claim)
        return None

    def stale(self) -> list[Claim]:
        """Return the claims of dead processes, by number; those that are not needed are withdrawn."""
        for number in sorted(self._half_withdrawn):
            self._take(self._store.finish(number, {}, "FAIL"))
        found = []
        for claim in list(self._ledger.running.values()):
            if claim.number in self._mine or (not claim.released and self._workers.is_alive(claim.worker)):
                continue
            if self._ledger.wins(claim.number):
                found.append(claim)
            else:
                self._withdraw(claim)
        return sorted(found, key=lambda claim: self._ledger.ordinal(claim.digest))

    def failed_claims(self) -> list[Claim]:
        """Return the claims of the candidates that failed, by number."""
        heads = (self._ledger.head(failure.digest) for failure in self.failures)
        return [head for head in heads if head is not None and head.state == FAILED]

    def is_current(self, claim: Claim) -> bool:
        """Whether a claim is still the one of its candidate that counts, in the state that it had."""
        return self._ledger.head(claim.digest) == claim

    def is_awaited(self, trials: int) -> bool:
        """Whether one of the first `trials` candidates is being evaluated."""
        return any(self._ledger.ordinal(claim.digest) < trials for claim in self._running())

    def choices_of(self, claim: Claim) -> dict[str, Scalar]:
        """Return the choices of a claimed candidate."""
        return dict(self._seen[claim.number].params)

    def number_of(self, claim: Claim) -> int:
        """Return the place of a claimed candidate among all, from 0."""
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
        """Write the result of a claim; `stopped` where a rung ended it after the epochs of its curve.

        Returns None where another process took the candidate over, taking this one for dead.
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
        """Write that a claimed candidate could not be evaluated; False where another process took it over."""
        return self._finish(claim, {"error": reason}, "FAIL")

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
        """Claim and end a candidate in one go. Raises RunError where it was tried already."""
        claim = self.claim(choices, arch.digest)
        trial = self.end(claim, metrics, values, duration_s, curve, stopped) if claim else None
        if trial is None:
            raise RunError(f"{self.folder}: {arch.digest} was tried already")
        return trial

    def record_failure(self, choices: Choices, arch: Architecture, reason: str) -> None:
        """Claim a candidate that could not be evaluated and write the reason. Raises RunError if it was tried."""
        claim = self.claim(choices, arch.digest)
        if claim is None or not self.fail(claim, reason):
            raise RunError(f"{self.folder}: {arch.digest} was tried already")

    def record_repeat(self, repeat: Repeat) -> None:
        """Write a finished evaluation of a finalist with another seed."""
        self._store.set_attribute(REPEAT + "/".join(map(str, repeat.key)), asdict(repeat))
        self.repeats[repeat.key] = repeat

    def release(self) -> None:
        """Leave what this process was evaluating to others, or to the next command; a process that dies cannot."""
        for number in sorted(self._mine):
            with contextlib.suppress(Exception):  # then it counts as one that died
                self._store.mark(number, "released", True)
        self._mine.clear()

    def _running(self) -> list[Claim]:
        return [claim for claim in self._ledger.running.values() if self._ledger.wins(claim.number)]

    def _write_claim(self, choices: Choices, attributes: Mapping[str, Any]) -> Claim:
        """Write a running trial, in one write, read what came before it, and return it as a claim."""
        number = self._store.create(choices, self._space.choices, {**attributes, "worker": self._workers.me})
        self._mine.add(number)
        self.refresh()
        return self._ledger.claims[number]

    def _finish(self, claim: Claim, attributes: Mapping[str, Any], state: str, values: Sequence[float] = ()) -> bool:
        """End a claim; return whether it counts as this process ended it, and not as another did before."""
        self._mine.discard(claim.number)
        self._take(self._store.finish(claim.number, attributes, state, values))
        meant = FAILED if state == "FAIL" else ENDED
        counts = self._ledger.wins(claim.number) and self._ledger.claims[claim.number].state == meant
        self.ended_here += counts
        return counts

    def _withdraw(self, claim: Claim) -> None:
        self._finish(claim, {"withdrawn": True}, "FAIL")

    def _take(self, frozen: Any) -> None:
        """Take in a trial that is new or has changed."""
        self._seen[frozen.number] = frozen
        claim = claim_of(frozen)
        if claim is not None and claim.state == WITHDRAWN and not frozen.state.is_finished():
            self._half_withdrawn.add(frozen.number)  # who did it was killed between two writes, or is about to end it
        else:
            self._half_withdrawn.discard(frozen.number)
        if claim is None or claim == self._ledger.claims.get(claim.number):
            return
        shifted = self._ledger.take(claim)
        number = self._ledger.ordinal(claim.digest) if claim.digest in self._ledger else -1
        if self._ledger.wins(claim.number) and claim.state == ENDED:
            self._failures.pop(claim.digest, None)
            trial = trial_of(frozen, number, self._space)
            self.ended.append(trial)
            insort(self.evaluated, trial, key=lambda other: other.number)
        elif self._ledger.wins(claim.number) and claim.state == FAILED:
            self._failures[claim.digest] = failure_of(frozen, number)
            self.ended.append(self._failures[claim.digest])
        if shifted:
            self._renumber()

    def _renumber(self) -> None:
        """Number all anew: one that was claimed in vain stood before others."""
        number = self._ledger.ordinal
        self.evaluated = sorted(
            (replace(trial, number=number(trial.digest)) for trial in self.evaluated), key=lambda trial: trial.number
        )
        self._failures = {digest: replace(failure, number=number(digest)) for digest, failure in self._failures.items()}


@contextlib.contextmanager
def open_study(
    folder: Path, settings: dict[str, Any], space: Searched, directions: tuple[str, ...], url: str | None = None
) -> Iterator[Study]:
    """Give the study of a run folder, begun where there is none; other processes may work on it meanwhile.

    `settings` is what makes the experiment, `url` the database that holds the study where that is not the folder's
    journal. Raises RunError where the study is another experiment's or cannot be reached. A mistake that is found
    before anything was tried (NasError) leaves the folder as free as it was.
    """
    check_kept(folder, settings, url)
    storage = open_storage(folder, url) if url else None
    workers = _join(folder)
    try:
        with exclusive(folder / BEGIN):
            store = begin(folder, storage or open_storage(folder, None), url, settings, directions)
        if url:
            workers.beat(
                lambda worker, number: store.set_attribute(WORKER + worker, number),
                lambda worker: store.attributes().get(WORKER + worker),
            )
        study = Study(folder, store, space, workers)
        try:
            yield study
        except NasError:
            study.release()
            if not study.count:
                _leave_free(folder, workers, store)
            raise
        finally:
            study.release()
    finally:
        workers.close()


def read_trials(folder: Path, space: Searched) -> list[Trial]:
    """Return the candidates that were evaluated in a run's folder, by number; writes nothing.

    Raises RunError where it is no run's folder or its storage cannot be read.
    """
    return [trial_of(frozen, number, space) for number, frozen in evaluated(find(folder))]


def _join(folder: Path) -> Participants:
    """Return this process as a worker of a run's folder, which is made where there is none."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Participants(folder)
        except FileNotFoundError:  # another process has just left it free
            continue
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error}") from error


def _leave_free(folder: Path, workers: Participants, store: TrialStore) -> None:
    """Remove the journal of a run in which nothing was done, so that a corrected command may use the folder.

    Not where another process works on it, or an evaluator has its state beside it: that belongs to the settings which
    the journal holds.
    """
    ours = {JOURNAL, CARD, *PASSING}
    with exclusive(folder / BEGIN):
        elsewhere = any(name.startswith(WORKER) and name != WORKER + workers.me for name in store.attributes())
        if elsewhere or workers.others() or not {path.name for path in folder.iterdir()} <= ours:
            return
        if (folder / CARD).is_file() and not store.forget_empty():
            return
        for name in (JOURNAL, CARD, LOCK, FINISH):
            (folder / name).unlink(missing_ok=True)
    workers.close()
    with contextlib.suppress(OSError):  # the current directory, on some systems
        folder.rmdir()
