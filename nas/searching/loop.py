"""The loop: ask, decode, predict the latency, claim and evaluate what is worth it, record, tell."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.controllers.base import Observation
from nas.errors import UsageError
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Event, Executor, follow
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.networks.network import canonical, totals, trace
from nas.searching.early_stopping import Entry, Rungs
from nas.searching.live_display import ProgressTracker, watching
from nas.spaces.search_space import Searched
from nas.study.objectives import Metrics, Objective
from nas.study.ranking import ReferencePoint
from nas.study.study import Failure, Study, Trial
from nas.study.trial_ownership import ATTEMPTS, Claim
from nas.utils.reporting import Reporter

CONTROLLER_ATTEMPTS = 50
"""How often a controller may ask for what was tried or is out of reach before random candidates step in."""
ALL_ATTEMPTS = 5_000
OTHERS_S = 0.5
"""Between two looks at what other processes do, while this one has nothing to evaluate."""
HOPELESS = 5
"""A search whose first candidates all fail alike ends after so many: the input is wrong, not the candidates."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search is made of; `predict` gives the latency of a network in ms, `rungs` stop trainings early.

    Without an `executor`, this process evaluates, one candidate at a time. `beside` gives what else of its Metrics is
    known beforehand, as the latencies on several devices; `spends` is what the objective admits a candidate by, and
    `reference` what a front's volume is shown against. `known` are the digests of networks that earlier work
    evaluated: they are never proposed.
    """

    space: Searched
    controller: Controller
    evaluator: Evaluator
    objective: Objective
    predict: Callable[[Architecture], float]
    rungs: Rungs
    known: frozenset[str] = frozenset()
    executor: Executor | None = None
    extra_metrics: Callable[[Architecture], dict[str, Any]] = lambda _: {}
    spends: Callable[[Metrics], ArrayLike] = lambda costs: costs.latencies_ms or costs.latency_ms
    reference: ReferencePoint | None = None

    def costs(self, arch: Architecture) -> Metrics:
        """Return what is known of a network before its evaluation; the accuracy is 0."""
        whole = totals(trace(arch))
        return Metrics(0.0, self.predict(arch), whole.params, whole.macs, **self.extra_metrics(arch))


@dataclass(frozen=True)
class Candidate:
    """A proposal that was not tried before, with what is known of it."""

    choices: dict[str, Scalar]
    architecture: Architecture
    costs: Metrics


def search(
    plan: SearchPlan, study: Study, trials: int, seed: int, reporter: Reporter, retry_failed: bool = False
) -> None:
    """Fill `study` up to `trials` candidates; what it holds already is told to the controller, not evaluated again.

    What dead processes left is taken up first, then what failed before, if it is to be retried. Ends when none of the
    `trials` candidates is being evaluated by any process. Raises UsageError where nothing but failures alike came of
    the first candidates.
    """
    executor = plan.executor or InProcessExecutor(plan.evaluator)
    try:
        with watching(plan.objective, study, trials, plan.rungs.epochs, reporter, plan.reference) as seen:
            _Search(plan, executor, study, trials, seed, reporter, seen, retry_failed).run()
    finally:
        executor.close()


def propose(plan: SearchPlan, study: Study, seed: int) -> Candidate | None:
    """Return a candidate that is new and that the objective admits, or None where none was found."""
    tried, pending = study.digests | plan.known, study.pending
    for attempt in range(ALL_ATTEMPTS):
        own = derive_seed(seed, study.claimed, attempt)
        asked = attempt < CONTROLLER_ATTEMPTS
        choices = plan.controller.ask(own, pending) if asked else plan.space.sample(random.Random(own))
        arch = canonical(plan.space.decode(choices))
        if arch.digest in tried:
            continue
        costs = plan.costs(arch)
        if plan.objective.admits(plan.spends(costs)):
            return Candidate(choices, arch, costs)
    return None


@dataclass
class _Running:
    """A candidate under way: its claim, what is known of it beside the accuracy, and its curve so far."""

    claim: Claim
    costs: Metrics
    started: float
    curve: tuple[float, ...] = ()


class _Search:
    """The loop: fill the executor's slots, wait for what happens next, record it, tell the controller."""

    def __init__(
        self, plan: SearchPlan, executor: Executor, study: Study, trials: int, seed: int, reporter: Reporter,
        seen: ProgressTracker, retry_failed: bool,
    ):  # fmt: skip
        self._plan, self._executor, self._study = plan, executor, study
        self._trials, self._seed, self._reporter, self._seen = trials, seed, reporter, seen
        self._running: dict[int, _Running] = {}
        self._entries: list[Entry] = []
        self._told = 0
        self._exhausted = False
        self._retries = study.failed_claims() if retry_failed else []

    def run(self) -> None:
        """Go on until nothing is left to do."""
        waits = False
        while True:
            self._fill()
            if self._running:
                self._take_in(self._executor.wait())
            elif self._is_over():
                return
            else:
                if not waits:
                    self._reporter.say("candidates are being evaluated by other processes: waiting for them")
                waits = True
                time.sleep(OTHERS_S)

    def _is_over(self) -> bool:
        all_claimed = self._exhausted or self._study.claimed >= self._trials
        return all_claimed and not self._study.is_awaited(self._trials)

    def _fill(self) -> None:
        """Start candidates while there are slots and candidates."""
        while len(self._running) < self._executor.slots:
            self._catch_up()
            if claim := self._left_over():
                self._start(claim, self._again(claim))
            elif found := self._proposed():
                self._start(*found)
            else:
                return

    def _catch_up(self) -> None:
        """See what was done by others, and tell the controller of all that ended since it was told last."""
        self._study.refresh()
        self._tell()

    def _tell(self) -> None:
        for ended in self._study.ended[self._told :]:
            self._plan.controller.tell(observation_of(ended))
            if isinstance(ended, Trial):
                self._entries.append(Entry(ended.number, ended.curve, ended.metrics))
        self._told = len(self._study.ended)
        self._seen.look()

    def _left_over(self) -> Claim | None:
        """Return a claim of what a dead process had begun, or of what failed before this search, if there is any."""
        study = self._study
        for stale in study.stale():
            if stale.next_attempt > ATTEMPTS:
                why = f"its process died {ATTEMPTS} times while it was evaluated: out of memory?"
                if study.fail(stale, why):
                    self._failed(stale, why)
            elif claim := study.claim_again(stale):
                return claim
        while self._retries:
            failed = self._retries.pop(0)
            if study.is_current(failed) and (claim := study.claim_again(failed)):
                return claim
        return None

    def _proposed(self) -> tuple[Claim, Candidate] | None:
        """Return a new candidate and the claim of it; None where all are claimed or nothing new is within reach."""
        while self._study.claimed < self._trials and not self._exhausted:
            candidate = propose(self._plan, self._study, self._seed)
            if candidate is None:
                tried = self._study.claimed
                self._reporter.warn(f"nothing new within reach after {ALL_ATTEMPTS} tries: {tried} candidates tried")
                self._exhausted = True
            elif claim := self._study.claim(candidate.choices, candidate.architecture.digest, self._trials):
                return claim, candidate
            else:
                self._catch_up()
        return None

    def _again(self, claim: Claim) -> Candidate:
        """Return the candidate of a claim that another process made."""
        choices = self._study.choices_of(claim)
        arch = canonical(self._plan.space.decode(choices))
        return Candidate(choices, arch, self._plan.costs(arch))

    def _start(self, claim: Claim, candidate: Candidate) -> None:
        self._running[claim.number] = _Running(claim, candidate.costs, time.monotonic())
        self._seen.under_way(self._study.number_of(claim))
        self._executor.start(claim.number, candidate.architecture, self._seed)

    def _take_in(self, event: Event) -> None:
        """Take in what an executor tells of a candidate; what its evaluation raised is recorded as its failure."""
        running, more = self._running[event.number], event.accuracy is not None
        running.curve, error = follow(running.curve, event)
        if event.again:
            running.started = time.monotonic()
            return
        if more and error is None:
            self._seen.under_way(self._study.number_of(running.claim), len(running.curve))
        stopped = more and (error is not None or self._stops(running))
        if stopped:
            self._executor.stop(event.number)
        elif more:
            return
        del self._running[event.number]
        if error is None:
            self._end(running, stopped)
        elif self._study.fail(running.claim, error):
            self._failed(running.claim, error)

    def _stops(self, running: _Running) -> bool:
        """Whether a candidate ends at the rung that it has reached; others under way are its competitors too."""
        rungs, number = self._plan.rungs, self._study.number_of(running.claim)
        if len(running.curve) not in rungs.of(number):
            return False
        others = [
            Entry(self._study.number_of(other.claim), other.curve, other.costs)
            for other in self._running.values()
            if other is not running
        ]
        return rungs.stops(Entry(number, running.curve, running.costs), self._entries + others, self._plan.objective)

    def _end(self, running: _Running, stopped: bool) -> None:
        """Record a result and tell the controller.

        Of a stopped candidate it is told the values at its rung: what it would have reached is better, so it counts
        for less than it is worth and never for more, and it was among the worse of its rung.
        """
        metrics = replace(running.costs, accuracy=running.curve[-1])
        values, taken_s = self._plan.objective(metrics), time.monotonic() - running.started
        trial = self._study.end(running.claim, metrics, values, taken_s, running.curve, stopped)
        self._tell()
        self._seen.ended(self._study.number_of(running.claim), trial)
        if trial is None:
            self._reporter.warn(f"{running.claim.digest}: another process took it over, its result counts")

    def _failed(self, claim: Claim, why: str) -> None:
        self._tell()
        self._seen.ended(self._study.number_of(claim))
        self._reporter.warn(f"{claim.digest} failed: {why}")
        give_up_if_hopeless(self._study)


def observation_of(ended: Trial | Failure) -> Observation:
    """Return what a controller is told of a candidate that ended."""
    if isinstance(ended, Failure):
        return Observation(ended.choices, None, None)
    return Observation(ended.choices, ended.metrics, ended.values, ended.stopped_at is not None, ended.curve)


def give_up_if_hopeless(study: Study) -> None:
    """Raise UsageError where all candidates so far failed, for reasons that differ in figures at most."""
    reasons = [why for _, why in study.failed]
    alike = {re.sub(r"\d[\d.e+-]*", "#", why) for why in reasons}
    if study.evaluated or len(reasons) < HOPELESS or len(alike) > 1:
        return
    raise UsageError(f"--evaluator: the first {len(reasons)} candidates all failed alike, the last: {reasons[-1]}")


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2^31) that depends on all parts."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
