"""Ours: what a candidate costs is known beforehand, so the one thing to learn is how accurate it is.

A Gaussian process learns the value of candidates over their choices, log latency, and what else is known of each. The
next one is, among those that are admitted and were never tried, the one whose value may be the highest: mean + BETA
standard deviations (Srinivas et al. 2010). Candidates under way count with the value that is expected of them, so that
another worker looks elsewhere (Desautels et al. 2014, GP-BUCB). What the process sees is -log of the distance to
slightly above the best: it tells the good apart and lumps the bad together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.candidate_pool import Batch, CandidatePool, CostLimit
from nas.controllers.gaussian_process import Kernel, Posterior, condition, fit
from nas.spaces.encoding import Choices, Floats, Indices, Integers
from nas.study.objectives import Bools, Goal

BETA = 2.5
"""Less finds the best of easy problems a little sooner and stays beside that of hard ones for long."""
FIRST = 5
"""Values that must be known before anything is learnt from them; candidates until then are random."""
HEADROOM = 0.3
"""How far above the best value the log has its pole, as a share of the distance from the median to the best."""
LEVELS = 8
"""A front is searched as the best values within so many limits, evenly spread over the logarithm of each cost."""
MOST = 300
"""Values that the process takes in: half of them the best, the others the last that were told."""
REFIT, STEADY = 20, 400
"""The kernel is fitted anew after each value up to twice so many, then after every REFIT-th part of them."""
PARENTS, CHILDREN, KEPT, ROUNDS = 20, 1500, 100, 3
"""In a large domain: mutants of the best tried are looked at too, then mutants of those that look best."""
LATE, LATER_SHARE = 1000, 8
"""After so many values, fewer are looked at for each that is asked: what is learnt of one more is little by then."""


class SurrogateController:
    """Ours: a Gaussian process of accuracy, for latency is known; several goals, or limits of a front, in turn."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._pool = CandidatePool(problem.domain)
        self._new: list[Observation] = []
        self._told: list[Observation] = []
        self._known: Batch | None = None
        self._tried: set[bytes] = set()
        self._kernels: dict[tuple[int, int], Kernel] = {}

    def tell(self, told: Observation) -> None:
        """Take in a candidate; a failed one is never asked for again."""
        self._new.append(told)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that may be the best; a random one that the aim admits while little is known.

        Where an aim has nothing new left, the next is aimed at; where all are exhausted, anything comes back.
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
        for later in range(len(self._aims)):
            number = (turn + later) % len(self._aims)
            start = self._pool.admitted(self._aims[number])
            if not len(start):
                continue
            if len(self._told) < FIRST:
                found = start.take(rng.permutation(len(start)))
            else:
                found = self._best_first(number, self._aims[number], start, others, rng)
            if (row := self._fresh(found, others)) is not None:
                return self._problem.domain.decode(row)
        return self._problem.domain.decode(self._problem.domain.sample(1, rng)[0])

    @cached_property
    def _aims(self) -> tuple[CostLimit, ...]:
        """One for each goal, or for each limit on each cost that the front spans: latencies, MACs, parameters."""
        objective, features = self._problem.objective, self._problem.domain.features
        if not objective.axes:
            return tuple(
                CostLimit(goal.device, float("inf") if goal.admits(np.inf) else goal.target_ms)
                for goal in objective.goals
            )
        stock = self._pool.costs_of_stock
        devices = len(stock) - len(features)
        costs = list(range(devices)) if "latency" in objective.axes else []
        costs += [devices + at for at, name in enumerate(features) if name in objective.axes]
        costs = costs or list(range(devices))  # energy and memory are not known of so many: latency stands for them
        aims = []
        for cost in costs:
            low, high = float(np.quantile(stock[cost], 0.005)), float(stock[cost].max())
            spaced = np.geomspace(low, high, LEVELS) if cost < devices else np.linspace(low, high, LEVELS)
            aims += [CostLimit(cost, limit) for limit in spaced.tolist()]
        return tuple(aims)

    def _kernel(self, number: int, inside: Bools) -> Kernel:
        """Return the kernel of an aim, fitted to what was told when it was due: a search that goes on has the same."""
        assert self._known is not None
        fitted = last_fit(len(self._told))
        if (number, fitted) not in self._kernels:
            old, told = _most(self._values(number, fitted), inside[:fitted])
            self._kernels = {key: kernel for key, kernel in self._kernels.items() if key[0] != number}
            self._kernels[number, fitted] = fit(self._pool.columns, self._known.points[old], told)
        return self._kernels[number, fitted]

    def _best_first(
        self, number: int, aim: CostLimit, start: Batch, others: Indices, rng: np.random.Generator
    ) -> Batch:
        """Return candidates that the aim admits, the one that may be the best first."""
        assert self._known is not None
        known, count = self._known, len(self._told)
        values, inside = self._values(number, count), aim.admits(self._pool.costs(known.facts))
        used, told = _most(values, inside)
        kernel = self._kernel(number, inside)
        belief = condition(self._pool.columns, kernel, known.points[used], told)
        if len(others):
            waiting = self._pool.points(others, self._problem.domain.facts(others))
            expected, _ = belief.predict(waiting)
            points = np.concatenate([belief.points, waiting])
            belief = condition(self._pool.columns, kernel, points, np.concatenate([told, expected]))
        found = start
        share = LATER_SHARE if count > LATE else 1
        children, keep = CHILDREN // share, KEPT // share
        if not self._pool.is_whole:
            order = np.lexsort([-values, ~inside])[:PARENTS]
            near = self._pool.near(known.rows[order], children, aim, rng)
            fresh = start.rows[rng.integers(0, len(start), children)]
            found = self._pool.batch(np.concatenate([near, fresh]))
        scores = _highest(belief, found)
        for _ in range(0 if self._pool.is_whole else ROUNDS - 1):
            kept = found.rows[np.argsort(-scores, kind="stable")[:keep]]
            found = self._pool.batch(np.concatenate([kept, self._pool.near(kept, children, aim, rng)]))
            scores = _highest(belief, found)
        return found.take(np.argsort(-scores, kind="stable"))

    def _fresh(self, found: Batch, others: Indices) -> Indices | None:
        """Return the first of them that was not tried and is not under way, (choices,); None where all were."""
        waiting = {key.tobytes() for key in self._problem.domain.facts(others).keys} if len(others) else set()
        for row, key in zip(found.rows, found.facts.keys, strict=True):
            if key.tobytes() not in self._tried and key.tobytes() not in waiting:
                return np.asarray(row)
        return None

    def _values(self, number: int, count: int) -> Floats:
        """Return what the goal says of the first told, (count,); on a front, and beyond a limit, their accuracy."""
        assert self._known is not None
        accuracy = full_accuracies(self._told[:count])
        objective = self._problem.objective
        if objective.axes:
            return accuracy
        goal: Goal = objective.goals[number]
        latency = np.atleast_2d(self._known.facts.latency_ms)[goal.device, :count]
        return np.where(goal.admits(latency), goal.scores(accuracy, latency), accuracy)

    def _take_in(self) -> None:
        """Learn of all that was told since, at once: a study that is opened may hold thousands."""
        if not self._new:
            return
        rows = np.stack([self._problem.domain.encode(told.choices) for told in self._new])
        facts = self._problem.domain.facts(rows)
        self._tried.update(key.tobytes() for key in facts.keys)
        all_new = Batch(rows, facts, self._pool.points(rows, facts))
        ended = all_new.take(np.array([told.metrics is not None for told in self._new]))
        self._known = self._known.with_more(ended) if self._known else ended
        self._told += [told for told in self._new if told.metrics is not None]
        self._new = []


def full_accuracies(told: Sequence[Observation]) -> Floats:
    """Return the accuracy of each, (N,); of a stopped one, what it lacks to full training as others gained from there.

    The gain from an epoch on is the mean over those that went on, at their stage.
    """
    gains: dict[int, float] = {}
    for stage in {len(ended.curve) for ended in told if ended.stopped and ended.curve}:
        whole = [ended.curve for ended in told if not ended.stopped and len(ended.curve) >= stage]
        gains[stage] = float(np.mean([curve[-1] - curve[stage - 1] for curve in whole])) if whole else 0.0
    found = []
    for ended in told:
        assert ended.metrics is not None
        found.append(ended.metrics.accuracy + (gains.get(len(ended.curve), 0.0) if ended.stopped else 0.0))
    return np.array(found)


def last_fit(count: int) -> int:
    """Return after how many values the kernel is fitted that serves `count` of them."""
    if count <= STEADY:
        return count - count % max(1, count // REFIT)
    due = STEADY
    while due + due // REFIT <= count:
        due += due // REFIT
    return due


def _most(values: Floats, inside: Bools) -> tuple[Integers, Floats]:
    """Return which values the process takes in, in the order in which they were told, and what it sees of them."""
    chosen = np.arange(len(values))
    if len(values) > MOST:
        best = np.lexsort([-values, ~inside])[: MOST // 2]
        chosen = np.union1d(best, chosen[-MOST // 2 :])
    top = float(values[inside].max() if inside.any() else values.max())
    reach = max(top - float(np.median(values)), 1e-6)
    return chosen, -np.log(np.maximum(top - values[chosen], 0.0) + HEADROOM * reach)


def _highest(belief: Posterior, found: Batch) -> Floats:
    mean, deviation = belief.predict(found.points)
    return mean + BETA * deviation
