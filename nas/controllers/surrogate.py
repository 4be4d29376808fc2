"""The surrogate controller: it learns only how accurate candidates are, because their costs are known.

A Gaussian process models the value of candidates as a function of their choices, their log latency and their other
known costs. The controller proposes the untried, admitted candidate with the highest upper confidence bound: the mean
plus BETA standard deviations (Srinivas et al. 2010). Pending candidates count with their expected value, so that other
workers look elsewhere (Desautels et al. 2014, GP-BUCB). The process models -log of the distance to a little above the
best value. This separates the good candidates and lumps the bad ones together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import compress

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.candidate_pool import Batch, CandidatePool, CostLimit
from nas.controllers.gaussian_process import Kernel, Posterior, condition, fit
from nas.spaces.encoding import Choices, Floats, Indices, Integers
from nas.study.objectives import Bools, Goal
from nas.study.trials import Trial, TrialState

BETA = 2.5
"""A smaller value solves easy problems a little sooner, but misses the best of hard problems for long."""
FIRST = 5
"""The first candidates are random; the controller learns once this many values are known."""
HEADROOM = 0.3
"""The pole of the log lies this far above the best value, as a fraction of the distance from the median to the best."""
LEVELS = 8
"""A front is searched as the best value within each of this many limits on each cost.

The limits are evenly spaced: those on a latency in its logarithm, those on MACs and parameters linearly."""
MOST = 300
"""The process is conditioned on at most this many values: half of them the best ones, the others the latest."""
REFIT, STEADY = 20, 400
"""The kernel is fitted again after each value up to twice REFIT values, then whenever one REFIT-th more are known.

Beyond STEADY values, one REFIT-th is counted from the last fit."""
PARENTS, CHILDREN, KEPT, ROUNDS = 20, 1500, 100, 3
"""In a large space, mutants of the best PARENTS trials are scored too, then mutants of the KEPT best by score."""
LATE, LATER_SHARE = 1000, 8
"""Beyond LATE values, fewer candidates are scored per proposal, because one more value teaches little by then."""


class SurrogateController:
    """Ours: a Gaussian process of the accuracy, with known costs; takes goals, or limits of a front, in turn."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._pool = CandidatePool(problem.domain)
        self._new: list[Trial] = []
        self._trials: list[Trial] = []
        self._known: Batch | None = None
        self._tried: set[bytes] = set()
        self._kernels: dict[tuple[int, int], Kernel] = {}

    def tell(self, trial: Trial) -> None:
        """Add a trial. A failed candidate is not proposed again."""
        self._new.append(trial)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate with the highest upper confidence bound within the current limit.

        The first candidates are random within the limit. If a limit has no untried candidate left, the next limit is
        used; if none has, any candidate is returned.
        """
        if not self._problem.domain.choices:
            return {}
        self._take_in()
        rng = np.random.default_rng(seed)
        encode = self._problem.domain.encode
        others = np.array([encode(choices) for choices in pending], np.int16).reshape(
            len(pending), len(self._problem.domain.widths)
        )
        turn = len(self._tried) + len(pending)
        for later in range(len(self._limits)):
            number = (turn + later) % len(self._limits)
            start = self._pool.admitted(self._limits[number])
            if not len(start):
                continue
            if len(self._trials) < FIRST:
                found = start.take(rng.permutation(len(start)))
            else:
                found = self._best_first(number, self._limits[number], start, others, rng)
            if (row := self._fresh(found, others)) is not None:
                return self._problem.domain.decode(row)
        return self._problem.domain.decode(self._problem.domain.sample(1, rng)[0])

    @cached_property
    def _limits(self) -> tuple[CostLimit, ...]:
        """One limit for each goal, or LEVELS limits for each cost of the front: latencies, MACs, parameters."""
        objective, features = self._problem.objective, self._problem.domain.features
        if not objective.axes:
            return tuple(
                CostLimit(goal.device, float("inf") if goal.admits(np.inf) else goal.target_ms)
                for goal in objective.goals
            )
        base = self._pool.base_costs
        devices = len(base) - len(features)
        costs = list(range(devices)) if "latency" in objective.axes else []
        costs += [devices + at for at, name in enumerate(features) if name in objective.axes]
        costs = costs or list(range(devices))  # energy and memory are unknown for most: use latency
        limits = []
        for cost in costs:
            low, high = float(np.quantile(base[cost], 0.005)), float(base[cost].max())
            spaced = np.geomspace(low, high, LEVELS) if cost < devices else np.linspace(low, high, LEVELS)
            limits += [CostLimit(cost, limit) for limit in spaced.tolist()]
        return tuple(limits)

    def _kernel(self, number: int, inside: Bools) -> Kernel:
        """Return the kernel of a limit, fitted to the trials at the last refit: a search that resumes has the same."""
        assert self._known is not None
        fitted = last_fit(len(self._trials))
        if (number, fitted) not in self._kernels:
            used, targets = _training_values(self._values(number, fitted), inside[:fitted])
            self._kernels = {key: kernel for key, kernel in self._kernels.items() if key[0] != number}
            self._kernels[number, fitted] = fit(self._pool.columns, self._known.points[used], targets)
        return self._kernels[number, fitted]

    def _best_first(
        self, number: int, limit: CostLimit, start: Batch, others: Indices, rng: np.random.Generator
    ) -> Batch:
        """Return candidates within the limit, the highest upper confidence bound first."""
        assert self._known is not None
        known, count = self._known, len(self._trials)
        values, inside = self._values(number, count), limit.admits(self._pool.costs(known.facts))
        used, targets = _training_values(values, inside)
        kernel = self._kernel(number, inside)
        posterior = condition(self._pool.columns, kernel, known.points[used], targets)
        if len(others):
            waiting = self._pool.points(others, self._problem.domain.facts(others))
            expected, _ = posterior.predict(waiting)
            points = np.concatenate([posterior.points, waiting])
            posterior = condition(self._pool.columns, kernel, points, np.concatenate([targets, expected]))
        found = start
        share = LATER_SHARE if count > LATE else 1
        children, keep = CHILDREN // share, KEPT // share
        if not self._pool.is_whole:
            order = np.lexsort([-values, ~inside])[:PARENTS]
            near = self._pool.near(known.rows[order], children, limit, rng)
            fresh = start.rows[rng.integers(0, len(start), children)]
            found = self._pool.batch(np.concatenate([near, fresh]))
        scores = _upper_bounds(posterior, found)
        for _ in range(0 if self._pool.is_whole else ROUNDS - 1):
            kept = found.rows[np.argsort(-scores, kind="stable")[:keep]]
            found = self._pool.batch(np.concatenate([kept, self._pool.near(kept, children, limit, rng)]))
            scores = _upper_bounds(posterior, found)
        return found.take(np.argsort(-scores, kind="stable"))

    def _fresh(self, found: Batch, others: Indices) -> Indices | None:
        """Return the first candidate that is neither tried nor pending, (choices,); None if there is none."""
        waiting = {key.tobytes() for key in self._problem.domain.facts(others).keys} if len(others) else set()
        for row, key in zip(found.rows, found.facts.keys, strict=True):
            if key.tobytes() not in self._tried and key.tobytes() not in waiting:
                return np.asarray(row)
        return None

    def _values(self, number: int, count: int) -> Floats:
        """Return the values of the first `count` trials, (count,).

        A value is the goal's score. On a front, and beyond a goal's limit, it is the accuracy.
        """
        assert self._known is not None
        accuracy = full_accuracies(self._trials[:count])
        objective = self._problem.objective
        if objective.axes:
            return accuracy
        goal: Goal = objective.goals[number]
        latency = np.atleast_2d(self._known.facts.latency_ms)[goal.device, :count]
        return np.where(goal.admits(latency), goal.scores(accuracy, latency), accuracy)

    def _take_in(self) -> None:
        """Take in all new trials at once: a study that is opened may have thousands."""
        if not self._new:
            return
        rows = np.stack([self._problem.domain.encode(trial.choices) for trial in self._new])
        facts = self._problem.domain.facts(rows)
        self._tried.update(key.tobytes() for key in facts.keys)
        all_new = Batch(rows, facts, self._pool.points(rows, facts))
        evaluated = [trial.state is not TrialState.FAILED for trial in self._new]
        batch = all_new.take(np.array(evaluated))
        self._known = self._known.with_more(batch) if self._known else batch
        self._trials += compress(self._new, evaluated)
        self._new = []


def full_accuracies(trials: Sequence[Trial]) -> Floats:
    """Return the accuracy of each trial after full training, (N,).

    For a stopped trial it is estimated: its accuracy plus the mean gain of the other trials from that epoch on.
    """
    gains: dict[int, float] = {}
    for epochs in {len(trial.curve) for trial in trials if trial.state is TrialState.STOPPED and trial.curve}:
        whole = [trial.curve for trial in trials if trial.state is TrialState.COMPLETE and len(trial.curve) >= epochs]
        gains[epochs] = float(np.mean([curve[-1] - curve[epochs - 1] for curve in whole])) if whole else 0.0
    return np.array([trial.metrics.accuracy + gains.get(trial.stopped_at or 0, 0.0) for trial in trials])


def last_fit(count: int) -> int:
    """Return the size of the data set at the last kernel fit, given that there are `count` values now."""
    if count <= STEADY:
        return count - count % max(1, count // REFIT)
    due = STEADY
    while due + due // REFIT <= count:
        due += due // REFIT
    return due


def _training_values(values: Floats, inside: Bools) -> tuple[Integers, Floats]:
    """Return the indices of the values that the process learns, in order, and what it models for each."""
    chosen = np.arange(len(values))
    if len(values) > MOST:
        best = np.lexsort([-values, ~inside])[: MOST // 2]
        chosen = np.union1d(best, chosen[-MOST // 2 :])
    top = float(values[inside].max() if inside.any() else values.max())
    reach = max(top - float(np.median(values)), 1e-6)
    return chosen, -np.log(np.maximum(top - values[chosen], 0.0) + HEADROOM * reach)


def _upper_bounds(posterior: Posterior, found: Batch) -> Floats:
    mean, deviation = posterior.predict(found.points)
    return mean + BETA * deviation
