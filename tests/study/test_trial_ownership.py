"""The rule of claims: whatever order processes write in, all of them agree on whose claim counts."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nas.study.trial_ownership import ENDED, FAILED, RUNNING, WITHDRAWN, Claim, OwnershipLedger


def ledger(*claims: Claim) -> OwnershipLedger:
    made = OwnershipLedger()
    for claim in claims:
        made.take(claim)
    return made


def test_the_lower_number_wins() -> None:
    book = ledger(Claim(0, "a", RUNNING, "x"), Claim(1, "a", RUNNING, "y"), Claim(2, "b", RUNNING, "y"))
    assert [book.wins(number) for number in range(3)] == [True, False, True]
    assert len(book) == 2
    assert [book.ordinal("a"), book.ordinal("b")] == [0, 1]


def test_what_was_withdrawn_counts_for_nothing() -> None:
    book = ledger(Claim(0, "a", RUNNING), Claim(1, "b", RUNNING), Claim(2, "a", RUNNING))
    assert book.take(Claim(0, "a", WITHDRAWN))
    assert book.wins(2)
    assert [book.ordinal("b"), book.ordinal("a")] == [0, 1]
    book.take(Claim(2, "a", WITHDRAWN))
    assert "a" not in book
    assert len(book) == 1


def test_who_takes_over_keeps_the_place() -> None:
    book = ledger(Claim(0, "a", RUNNING), Claim(1, "b", RUNNING), Claim(2, "a", RUNNING, attempt=2, replaces=0))
    assert book.wins(2)
    assert not book.take(Claim(0, "a", WITHDRAWN))
    assert book.wins(2)
    assert [book.ordinal("a"), book.ordinal("b")] == [0, 1]
    book.take(Claim(3, "a", RUNNING, attempt=2, replaces=0))
    assert not book.wins(3), "two took the same one over: the lower number has it"
    book.take(Claim(4, "a", RUNNING, attempt=3, replaces=2))
    assert book.wins(4)


def test_one_taken_for_dead_that_ends_all_the_same_counts() -> None:
    book = ledger(Claim(0, "a", RUNNING), Claim(1, "a", RUNNING, replaces=0))
    book.take(Claim(0, "a", ENDED))
    assert book.wins(0)


def test_a_failure_counts_until_its_retry_ends() -> None:
    book = ledger(Claim(0, "a", FAILED), Claim(1, "b", ENDED))
    book.take(Claim(2, "a", RUNNING, replaces=0))
    book.take(Claim(2, "a", ENDED, replaces=0))
    assert book.wins(2)
    assert len(book) == 2
    assert book.ordinal("a") == 0


def test_a_claim_that_was_released_is_no_death() -> None:
    assert Claim(0, "a", RUNNING, attempt=2).next_attempt() == 3
    assert Claim(0, "a", RUNNING, attempt=2, released=True).next_attempt() == 2


def test_a_death_after_new_epochs_were_saved_does_not_count() -> None:
    claim = Claim(0, "a", RUNNING, attempt=2, saved=5)
    assert claim.next_attempt(5) == 3
    assert claim.next_attempt(6) == 2


@st.composite
def histories(draw: st.DrawFn) -> list[Claim]:
    """Return claims as processes write them: new ones, some that replace others, and what becomes of them."""
    claims: list[Claim] = []
    events: list[Claim] = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["new", "again", "end"]))
        if kind == "new" or not claims:
            claims.append(Claim(len(claims), draw(st.sampled_from("abc")), RUNNING))
            events.append(claims[-1])
        elif kind == "again":
            old = draw(st.sampled_from(claims))
            claims.append(Claim(len(claims), old.digest, RUNNING, replaces=old.number))
            events.append(claims[-1])
        else:
            index = draw(st.sampled_from(range(len(claims))))
            if claims[index].state == RUNNING:
                state = draw(st.sampled_from([ENDED, FAILED, WITHDRAWN]))
                claims[index] = replace(claims[index], state=state)
                events.append(claims[index])
    return events


@given(histories())
def test_whoever_reads_late_sees_what_others_saw_happen(events: list[Claim]) -> None:
    step_by_step = ledger(*events)
    last = {event.number: event for event in events}
    at_once = ledger(*(last[number] for number in sorted(last)))
    assert step_by_step.digests == at_once.digests
    for digest in at_once.digests:
        assert step_by_step.head(digest) == at_once.head(digest)
        assert step_by_step.ordinal(digest) == at_once.ordinal(digest)
    assert sorted(map(at_once.ordinal, at_once.digests)) == list(range(len(at_once)))
    assert step_by_step.running == at_once.running
    heads = {at_once.head(digest) for digest in at_once.digests}
    assert all((claim in heads) == at_once.wins(claim.number) for claim in at_once.claims.values())
    assert not any(claim.state == WITHDRAWN for claim in heads if claim)
