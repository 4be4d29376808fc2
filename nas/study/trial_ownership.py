"""Trial ownership: which process evaluates which candidate.

It follows from the list of a study's trials alone, so all processes that share the study agree on it.

A process claims a candidate with one write: a running trial with the candidate's digest. The storage needs no
transactions. The process then reads the list again, and the claim with the lowest number wins. The candidate of a dead
process, or a failed one that is tried again, is claimed by a trial that `replaces` the old one. If several trials
replace the same one, the lowest number wins. Losing claims are withdrawn; they are neither shown nor counted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import KeysView
from dataclasses import dataclass
from typing import Any

RUNNING, ENDED, FAILED, WITHDRAWN = "running", "ended", "failed", "withdrawn"
ATTEMPTS = 3
"""A candidate counts as failed once this many processes died while they evaluated it."""


@dataclass(frozen=True)
class Claim:
    """The claim of a process on a candidate.

    Attributes:
        number: The number of the Optuna trial.
        digest: The digest of the candidate's architecture.
        state: RUNNING, ENDED, FAILED or WITHDRAWN.
        worker: The process that made the claim.
        attempt: 1, plus the number of processes that died while they evaluated the candidate.
        replaces: The number of the claim that this one takes over.
        released: Whether its process exited normally before the evaluation ended. Then the attempt does not count.
        saved: The epochs of the evaluation that were saved before this claim.
    """

    number: int
    digest: str
    state: str
    worker: str = ""
    attempt: int = 1
    replaces: int | None = None
    released: bool = False
    saved: int = 0

    def next_attempt(self, saved: int = 0) -> int:
        """Return the attempt of a claim that takes this one over when `saved` epochs are saved.

        It is the same one if the process exited normally, or if it saved more epochs than there were before.
        """
        return self.attempt + (0 if self.released or saved > self.saved else 1)


def claim_of(frozen: Any) -> Claim | None:
    """Return the claim that an Optuna trial stores; None if no search made the trial."""
    known = frozen.user_attrs
    if "digest" not in known:
        return None
    return Claim(
        frozen.number,
        known["digest"],
        _state(frozen),
        known.get("worker", ""),
        known.get("attempt", 1),
        known.get("replaces"),
        known.get("released", False),
        known.get("saved", 0),
    )


def _state(frozen: Any) -> str:
    """Return the state of a claim. A trial that another tool ended without a result counts as withdrawn."""
    known = frozen.user_attrs
    if "withdrawn" in known:
        return WITHDRAWN
    if not frozen.state.is_finished():
        return RUNNING
    if "error" in known:
        return FAILED
    return ENDED if "metrics" in known and frozen.values else WITHDRAWN


class OwnershipLedger:
    """The claims of a study.

    For each candidate, one claim counts: its head. The candidate's place in the study is that of its first claim.

    Attributes:
        claims: All claims, by number.
        running: The running claims, losing ones included, by number.
    """

    def __init__(self) -> None:
        self.claims: dict[int, Claim] = {}
        self.running: dict[int, Claim] = {}
        self._heads: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._order: list[int] = []
        self._roots: dict[str, list[int]] = defaultdict(list)
        self._followers: dict[int, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        """Return the number of candidates, running ones included."""
        return len(self._heads)

    def __contains__(self, digest: object) -> bool:
        """Whether a candidate has a claim that counts."""
        return digest in self._heads

    @property
    def digests(self) -> KeysView[str]:
        """The digests of the candidates."""
        return self._heads.keys()

    def head(self, digest: str) -> Claim | None:
        """Return the claim of a candidate that counts; None if it has none."""
        return self.claims[self._heads[digest]] if digest in self._heads else None

    def wins(self, number: int) -> bool:
        """Whether a claim is the head of its candidate."""
        return self._heads.get(self.claims[number].digest) == number

    def ordinal(self, digest: str) -> int:
        """Return the place of a candidate among all, from 0. This is the number of its trial."""
        return bisect_left(self._order, self._places[digest])

    def take(self, claim: Claim) -> bool:
        """Add or update a claim. Return whether the ordinals of other candidates changed."""
        if claim.number not in self.claims:
            rivals = self._roots[claim.digest] if claim.replaces is None else self._followers[claim.replaces]
            insort(rivals, claim.number)
        self.claims[claim.number] = claim
        if claim.state == RUNNING:
            self.running[claim.number] = claim
        else:
            self.running.pop(claim.number, None)
        return self._update_head(claim.digest)

    def _update_head(self, digest: str) -> bool:
        """Find the claim of a candidate that counts. Return whether the ordinals of other candidates changed."""
        before, place, head = self._places.get(digest), None, None
        for root in self._roots[digest]:
            head = self._owner(root)
            if head is not None:
                place = root
                break
        if head is None:
            self._heads.pop(digest, None)
        else:
            self._heads[digest] = head
        if place == before:
            return False
        if before is not None:
            self._order.remove(before)
            del self._places[digest]
        if place is not None:
            self._places[digest] = place
            insort(self._order, place)
        return before is not None or self._order[-1] != place

    def _owner(self, number: int) -> int | None:
        """Return which of claim `number` and its replacements counts: the one that ended, or else the newest."""
        claim = self.claims[number]
        if claim.state == ENDED:
            return number
        for follower in self._followers.get(number, ()):
            found = self._owner(follower)
            if found is not None:
                return found
        return None if claim.state == WITHDRAWN else number
