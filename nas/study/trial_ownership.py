"""Who evaluates what, told from the list of a study's trials alone, so that all processes of a study agree.

A candidate is claimed by one write: a running trial with its digest. No storage is asked for more, a transaction least
of all: whoever claims reads the list again, and the lower number wins. What a dead process had claimed is claimed
anew by a trial that `replaces` the old one, and so is a candidate that failed and is tried again; of several that
replace the same, the lowest wins. Losers are withdrawn: no view shows them, no count counts them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

RUNNING, ENDED, FAILED, WITHDRAWN = "running", "ended", "failed", "withdrawn"
ATTEMPTS = 3
"""So many processes may die of a candidate before it counts as failed."""


@dataclass(frozen=True)
class Claim:
    """A trial as its owner and the others see it. `number` is Optuna's, `attempt` counts the processes that died.

    `released` where its process ended in order before the evaluation did: nobody died of the candidate.
    """

    number: int
    digest: str
    state: str
    worker: str = ""
    attempt: int = 1
    replaces: int | None = None
    released: bool = False

    @property
    def next_attempt(self) -> int:
        """The attempt of who takes this one over."""
        return self.attempt + (0 if self.released else 1)


def claim_of(frozen: Any) -> Claim | None:
    """Return the claim that an Optuna trial is; None of one that is not ours."""
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
    )


def _state(frozen: Any) -> str:
    """Return the state of a trial; what another tool ended without a result counts as withdrawn."""
    known = frozen.user_attrs
    if "withdrawn" in known:
        return WITHDRAWN
    if not frozen.state.is_finished():
        return RUNNING
    if "error" in known:
        return FAILED
    return ENDED if "metrics" in known and frozen.values else WITHDRAWN


class OwnershipLedger:
    """The claims of a study. Each candidate has one that counts, its head, and the place of its first claim."""

    def __init__(self) -> None:
        self.claims: dict[int, Claim] = {}
        self.running: dict[int, Claim] = {}
        """Every claim that runs, heads and losers, by number."""
        self._heads: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._order: list[int] = []
        self._roots: dict[str, list[int]] = defaultdict(list)
        self._followers: dict[int, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        """Return how many candidates count, running ones included."""
        return len(self._heads)

    def __contains__(self, digest: object) -> bool:
        """Whether a candidate counts."""
        return digest in self._heads

    @property
    def digests(self) -> Any:
        """The candidates that count, as a set."""
        return self._heads.keys()

    def head(self, digest: str) -> Claim | None:
        """Return the claim of a candidate that counts; None where there is none."""
        return self.claims[self._heads[digest]] if digest in self._heads else None

    def wins(self, number: int) -> bool:
        """Whether a claim is the one of its candidate that counts."""
        return self._heads.get(self.claims[number].digest) == number

    def ordinal(self, digest: str) -> int:
        """Return the place of a candidate among all that count, from 0: its number as a user sees it."""
        return bisect_left(self._order, self._places[digest])

    def take(self, claim: Claim) -> bool:
        """Take in a claim that is new or has changed; return whether the ordinals of others changed thereby."""
        if claim.number not in self.claims:
            same = self._roots[claim.digest] if claim.replaces is None else self._followers[claim.replaces]
            insort(same, claim.number)
        self.claims[claim.number] = claim
        if claim.state == RUNNING:
            self.running[claim.number] = claim
        else:
            self.running.pop(claim.number, None)
        return self._settle(claim.digest)

    def _settle(self, digest: str) -> bool:
        """Decide anew which claim of a candidate counts."""
        before, place, head = self._places.get(digest), None, None
        for root in self._roots[digest]:
            head = self._tip(root)
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

    def _tip(self, number: int) -> int | None:
        """Return the claim that counts of `number` and those that replace it: who came to an end, else the newest."""
        claim = self.claims[number]
        if claim.state == ENDED:
            return number
        for follower in self._followers.get(number, ()):
            found = self._tip(follower)
            if found is not None:
                return found
        return None if claim.state == WITHDRAWN else number
