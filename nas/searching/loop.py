"""The search loop: ask the controller, predict the costs, claim the candidate, evaluate it, record the trial."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from nas.architecture import Architecture
from nas.controllers import Controller
from nas.errors import UsageError
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Event, Executor, follow
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.networks.network import canonical, totals, trace
from nas.searching.early_stopping import Rungs
from nas.searching.live_display import ProgressTracker, track_progress
from nas.spaces.search_space import Choices, Searched
from nas.study.objectives import Metrics, Objective
from nas.study.ranking import ReferencePoint
from nas.study.study import Study, Trial, TrialState
from nas.study.trial_ownership import ATTEMPTS, Claim
from nas.utils.reporting import Reporter

CONTROLLER_ATTEMPTS = 50
"""How many known or inadmissible candidates a controller may propose in a row before random ones replace them."""
ALL_ATTEMPTS = 5_000
"""How many proposals, random ones included, are checked for one new candidate."""
POLL_S = 0.5
"""How often a process with nothing to evaluate looks at the work of others, in seconds."""
HOPELESS = 5
"""A search ends if this many first candidates all fail for the same reason: then its input is wrong."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search consists of.

    Attributes:
        space: The search space.
        controller: Proposes candidates.
        evaluator: Evaluates them.
        objective: What the search maximizes.
        predict: Predicts the latency of a network in ms.
        rungs: Stops trainings early.
        known: The digests of networks that are never proposed, because earlier work evaluated them.
        executor: Runs the evaluations; by default this process, one at a time.
        extra_metrics: Further metrics of a network that are known before its evaluation, by name.
        budgeted_cost: The cost by which the objective admits a candidate: the latency by default.
        reference: The reference point of the front's volume in the display.
        metric: The metric of the accuracies, for messages.
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
    budgeted_cost: Callable[[Metrics], ArrayLike] = lambda costs: costs.latencies_ms or costs.latency_ms
    reference: ReferencePoint | None = None
    metric: str = "accuracy"

    def costs(self, arch: Architecture) -> Metrics:
        """Return the metrics that are known before an evaluation; the accuracy is 0."""
        whole = totals(trace(arch))
        return Metrics(0.0, self.predict(arch), whole.params, whole.macs, **self.extra_metrics(arch))

    def decode(self, choices: Choices) -> Architecture:
        """Return the network that the choices give, in its canonical form."""
        return canonical(self.space.decode(choices))

    def begin(self, number: int, choices: Choices, arch: Architecture) -> Trial:
        """Return the trial of a candidate before its first epoch."""
        return Trial(number, choices, arch.digest, TrialState.RUNNING, self.costs(arch), decode=lambda: arch)


def search(
    plan: SearchPlan, study: Study, trials: int, seed: int, reporter: Reporter, retry_failed: bool = False
) -> None:
    """Evaluate candidates until the study has `trials` of them.

    The candidates of dead processes come first, then failed ones if they are retried, then new ones. The trials that
    the study has already are not evaluated again; the controller learns from them. The search returns when no process
    evaluates any of the first `trials` candidates.

    Args:
        plan: What the search consists of.
        study: Its trials.
        trials: How many candidates to try, earlier ones included.
        seed: The seed of the controller and of the evaluations.
        reporter: Prints progress and warnings.
        retry_failed: Whether to evaluate candidates again that failed before this search.

    Raises:
        UsageError: The first candidates all failed for the same reason.
    """
    executor = plan.executor or InProcessExecutor(plan.evaluator)
    try:
        with track_progress(
            plan.objective, study, trials, plan.rungs.epochs, reporter, plan.reference, plan.metric
        ) as progress:
            _Search(plan, executor, study, trials, seed, reporter, progress, retry_failed).run()
    finally:
        executor.close()


def propose(plan: SearchPlan, study: Study, seed: int) -> Trial | None:
    """Return a new candidate that the objective admits, as a trial; None if none was found."""
    tried, pending = study.digests | plan.known, study.pending
    for attempt in range(ALL_ATTEMPTS):
        own_seed = derive_seed(seed, study.claimed, attempt)
        if attempt < CONTROLLER_ATTEMPTS:
            choices = plan.controller.ask(own_seed, pending)
        else:
            choices = plan.space.sample(random.Random(own_seed))
        arch = plan.decode(choices)
        if arch.digest in tried:
            continue
        trial = plan.begin(study.claimed, choices, arch)
        if plan.objective.admits(plan.budgeted_cost(trial.metrics)):
            return trial
    return None


@dataclass
class _Evaluation:
    """An evaluation under way: the claim of this process, the trial so far, and the start by `time.monotonic`."""

    claim: Claim
    trial: Trial
    started_s: float


class _Search:
    """The loop: fill the executor's slots, wait for the next event, record it, inform the controller."""

    def __init__(
        self,
        plan: SearchPlan,
        executor: Executor,
        study: Study,
        trials: int,
        seed: int,
        reporter: Reporter,
        progress: ProgressTracker,
        retry_failed: bool,
    ):
        self._plan, self._executor, self._study = plan, executor, study
        self._trials, self._seed, self._reporter, self._progress = trials, seed, reporter, progress
        self._running: dict[int, _Evaluation] = {}
        self._learned = 0
        self._exhausted = False
        self._retries = study.failed_claims() if retry_failed else []

    def run(self) -> None:
        """Run until nothing is left to do."""
        waits = False
        while True:
            self._fill_slots()
            if self._running:
                self._handle(self._executor.wait())
            elif self._is_over():
                return
            else:
                if not waits:
                    self._reporter.say("waiting for candidates that other processes evaluate")
                waits = True
                time.sleep(POLL_S)

    def _is_over(self) -> bool:
        all_claimed = self._exhausted or self._study.claimed >= self._trials
        return all_claimed and not self._study.is_awaited(self._trials)

    def _fill_slots(self) -> None:
        """Start candidates while the executor has free slots."""
        while len(self._running) < self._executor.slots:
            self._catch_up()
            if claim := self._claim_left_over():
                choices = self._study.choices_of(claim)
                self._start(claim, self._plan.begin(self._study.number_of(claim), choices, self._plan.decode(choices)))
            elif claimed := self._claim_new():
                self._start(*claimed)
            else:
                return

    def _catch_up(self) -> None:
        """Read what other processes wrote, and inform the controller of it."""
        self._study.refresh()
        self._inform_controller()

    def _inform_controller(self) -> None:
        """Let the controller learn from the trials that ended since the last call."""
        for trial in self._study.ended[self._learned :]:
            self._plan.controller.tell(trial)
        self._learned = len(self._study.ended)
        self._progress.update()

    def _claim_left_over(self) -> Claim | None:
        """Claim a candidate of a dead process, or one that failed before this search. Return None if none is left."""
        study = self._study
        for stale in study.stale():
            saved = self._saved(stale)
            if stale.next_attempt(saved) > ATTEMPTS:
                why = f"its process died {ATTEMPTS} times while it was evaluated: out of memory?"
                if study.fail(stale, why):
                    self._failed(stale, why)
            elif claim := study.claim_again(stale, saved):
                return claim
        while self._retries:
            failed = self._retries.pop(0)
            if study.is_current(failed) and (claim := study.claim_again(failed)):
                return claim
        return None

    def _saved(self, stale: Claim) -> int:
        """Return how many epochs of a dead process's evaluation the evaluator can continue from."""
        saved: Callable[[Architecture, int], int] | None = getattr(self._plan.evaluator, "saved", None)
        return saved(self._plan.decode(self._study.choices_of(stale)), self._seed) if saved else 0

    def _claim_new(self) -> tuple[Claim, Trial] | None:
        """Claim a new candidate. Return None if enough candidates are claimed, or no new one is found."""
        while self._study.claimed < self._trials and not self._exhausted:
            trial = propose(self._plan, self._study, self._seed)
            if trial is None:
                tried = self._study.claimed
                self._reporter.warn(f"{ALL_ATTEMPTS} proposals without a new candidate within reach: {tried} tried")
                self._exhausted = True
            elif claim := self._study.claim(trial.choices, trial.digest, self._trials):
                return claim, trial
            else:
                self._catch_up()
        return None

    def _start(self, claim: Claim, trial: Trial) -> None:
        self._running[claim.number] = _Evaluation(claim, trial, time.monotonic())
        self._progress.running(self._study.number_of(claim))
        self._executor.start(claim.number, trial.architecture, self._seed)

    def _handle(self, event: Event) -> None:
        """Take in an executor's event. An exception in the evaluation is recorded as a failure of the candidate."""
        evaluation, more = self._running[event.number], event.accuracy is not None
        curve, error = follow(evaluation.trial.curve, event)
        evaluation.trial = replace(evaluation.trial, curve=curve)
        if event.again:
            evaluation.started_s = time.monotonic()
            return
        if more and error is None:
            self._progress.running(self._study.number_of(evaluation.claim), len(curve))
        stopped = more and (error is not None or self._stops(evaluation))
        if stopped:
            self._executor.stop(event.number)
        elif more:
            return
        del self._running[event.number]
        if error is None:
            self._end(evaluation, stopped)
        elif self._study.fail(evaluation.claim, error):
            self._failed(evaluation.claim, error)

    def _stops(self, evaluation: _Evaluation) -> bool:
        """Whether a candidate ends at its current epoch. The other running candidates compete with it too."""
        trial = self._numbered(evaluation)
        if len(trial.curve) not in self._plan.rungs.of(trial.number):
            return False
        others = [self._numbered(other) for other in self._running.values() if other is not evaluation]
        return self._plan.rungs.stops(trial, self._study.evaluated + others, self._plan.objective)

    def _numbered(self, evaluation: _Evaluation) -> Trial:
        """Return the trial with its current number, which changes if the claim of an earlier one is withdrawn."""
        return replace(evaluation.trial, number=self._study.number_of(evaluation.claim))

    def _end(self, evaluation: _Evaluation, stopped: bool) -> None:
        """Record a result and inform the controller.

        A stopped candidate counts with the values at its rung. A full training would have improved them, so the
        controller may underrate it but never overrates it, and it was among the worse at its rung.
        """
        claim, curve = evaluation.claim, evaluation.trial.curve
        metrics = evaluation.trial.metrics_after(len(curve))
        values, duration_s = self._plan.objective(metrics), time.monotonic() - evaluation.started_s
        trial = self._study.end(claim, metrics, values, duration_s, curve, stopped)
        self._inform_controller()
        self._progress.ended(self._study.number_of(claim), trial)
        if trial is None:
            self._reporter.warn(f"{claim.digest}: another process took this candidate over; its result counts")

    def _failed(self, claim: Claim, why: str) -> None:
        self._inform_controller()
        self._progress.ended(self._study.number_of(claim))
        self._reporter.warn(f"{claim.digest} failed: {why}")
        give_up_if_hopeless(self._study)


def give_up_if_hopeless(study: Study) -> None:
    """Raise UsageError if all candidates so far failed, for reasons that differ in numbers only."""
    reasons = [trial.error for trial in study.failed]
    alike = {re.sub(r"\d[\d.e+-]*", "#", why) for why in reasons}
    if study.evaluated or len(reasons) < HOPELESS or len(alike) > 1:
        return
    rule = f"the first {len(reasons)} candidates all failed alike, the last: {reasons[-1]}"
    raise UsageError(rule, key="evaluator")


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2^31) that depends on all parts."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
