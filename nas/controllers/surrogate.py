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
from nas.controllers.pool import Aim, Batch, Pool
from nas.domain import Choices, Floats, Indices, Integers
from nas.gaussian_process import Kernel, Posterior, condition, fit
from nas.objective import Bools, Goal
from nas.problem import Problem, Told

BETA = 1.5
FIRST = 5
"""Random candidates of each aim, before anything is learnt."""
HEADROOM = 0.3
"""How far above the best value the log has its pole, as a share of the distance from the median to the best."""
LEVELS = 8
"""A front is searched as the best values within so many limits, evenly spread over the logarithm of each cost."""
MOST = 300
"""Values that the process takes in: half of them the best, the others the last that were told."""
REFIT = 20
"""The kernel is fitted anew after each value up to so many, then after every REFIT-th part of them."""
PARENTS, CHILDREN, KEPT, ROUNDS = 20, 1500, 100, 3
"""In a large domain: mutants of the best tried are looked at too, then mutants of those that look best."""
LATE, LATER_SHARE = 1000, 4
"""After so many values, fewer are looked at for each that is asked: what is learnt of one more is little by then."""


class SurrogateController:
    """Ours: a Gaussian process of accuracy, for latency is known; several goals, or limits of a front, in turn."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._pool = Pool(problem.domain)
        self._new: list[Told] = []
        self._told: list[Told] = []
        self._known: Batch | None = None
        self._tried: set[bytes] = set()
        self._kernels: dict[tuple[int, int], Kernel] = {}

    def tell(self, told: Told) -> None:
        """Take in a candidate; a failed one is never asked for again."""
        self._new.append(told)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that may be the best; a random one that the aim admits while little is known.

        What only failed or was refused is not told apart: another seed gives another candidate.
        """
        self._take_in()
        rng = np.random.default_rng(seed)
        encode = self._problem.domain.encode
        others = np.array([encode(choices) for choices in pending], np.int16).reshape(
            len(pending), len(self._problem.domain.widths)
        )
        turn = len(self._tried) + len(pending)
        number = turn % len(self._aims)
        aim = self._aims[number]
        start = self._pool.admitted(aim)
        if not len(start):
            return self._problem.domain.decode(self._problem.domain.sample(1, rng)[0])
        if len(self._told) < FIRST:
            return self._fresh(start.take(rng.permutation(len(start))), others)
        return self._best(number, aim, start, others, rng)

    @cached_property
    def _aims(self) -> tuple[Aim, ...]:
        """One for each goal, or for each limit on each cost that the front spans."""
        objective, devices = (
            self._problem.objective,
            len(self._pool.costs_of_stock) - len(self._problem.domain.features),
        )
        if not objective.axes:
            return tuple(
                Aim(goal.device, float("inf") if goal.admits(np.inf) else goal.target_ms) for goal in objective.goals
            )
        costs = list(range(devices)) if "latency" in objective.axes else []
        costs += [devices + at for at, name in enumerate(self._problem.domain.features) if name in objective.axes]
        aims = []
        for cost in costs:
            known = self._pool.costs_of_stock[cost]
            low, high = float(np.quantile(known, 0.005)), float(known.max())
            spaced = np.geomspace(low, high, LEVELS) if cost < devices else np.linspace(low, high, LEVELS)
            aims += [Aim(cost, limit) for limit in spaced.tolist()]
        return tuple(aims) or (Aim(),)

    def _best(
        self, number: int, aim: Aim, start: Batch, others: Indices, rng: np.random.Generator
    ) -> dict[str, Scalar]:  # fmt: skip
        assert self._known is not None
        known = self._known
        values, within = self._values(number, known), aim.admits(self._pool.costs(known.facts))
        count = len(values)
        fitted = count - count % max(1, count // REFIT)
        if (number, fitted) not in self._kernels:
            old, told = _most(values[:fitted], within[:fitted])
            self._kernels = {key: kernel for key, kernel in self._kernels.items() if key[0] != number}
            self._kernels[number, fitted] = fit(self._pool.columns, known.points[old], told)
        kernel = self._kernels[number, fitted]
        used, told = _most(values, within)
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
            order = np.lexsort([-values, ~within])[:PARENTS]
            near = self._pool.near(known.rows[order], children, aim, rng)
            fresh = start.rows[rng.integers(0, len(start), children)]
            found = self._pool.batch(np.concatenate([near, fresh]))
        scores = _highest(belief, found)
        for _ in range(0 if self._pool.is_whole else ROUNDS - 1):
            kept = found.rows[np.argsort(-scores, kind="stable")[:keep]]
            found = self._pool.batch(np.concatenate([kept, self._pool.near(kept, children, aim, rng)]))
            scores = _highest(belief, found)
        return self._fresh(found.take(np.argsort(-scores, kind="stable")), others)

    def _fresh(self, found: Batch, others: Indices) -> dict[str, Scalar]:
        """Return the first of them that was not tried and is not under way; the first where all were."""
        waiting = {key.tobytes() for key in self._problem.domain.facts(others).keys} if len(others) else set()
        for row, key in zip(found.rows, found.facts.keys, strict=True):
            if key.tobytes() not in self._tried and key.tobytes() not in waiting:
                return self._problem.domain.decode(row)
        return self._problem.domain.decode(found.rows[0])

    def _values(self, number: int, known: Batch) -> Floats:
        """Return what the goal in turn says of the candidates told, (N,); on a front, and beyond a limit, accuracy."""
        accuracy = full_accuracies(self._told)
        objective = self._problem.objective
        if objective.axes:
            return accuracy
        goal: Goal = objective.goals[number]
        latency = np.atleast_2d(known.facts.latency_ms)[goal.device]
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


def full_accuracies(told: Sequence[Told]) -> Floats:
    """Return the accuracy of each, (N,); of a stopped one, what it lacks to full training as others gained from there.

    The gain from an epoch on is the mean over those that went on, at their stage.
    """
    whole = [ended.curve for ended in told if not ended.stopped]
    found = []
    for ended in told:
        assert ended.metrics is not None
        gain = 0.0
        if ended.stopped and ended.curve:
            gains = [curve[-1] - curve[len(ended.curve) - 1] for curve in whole if len(curve) >= len(ended.curve)]
            gain = float(np.mean(gains)) if gains else 0.0
        found.append(ended.metrics.accuracy + gain)
    return np.array(found)


def _most(values: Floats, within: Bools) -> tuple[Integers, Floats]:
    """Return which values the process takes in, in the order in which they were told, and what it sees of them."""
    chosen = np.arange(len(values))
    if len(values) > MOST:
        best = np.lexsort([-values, ~within])[: MOST // 2]
        chosen = np.union1d(best, chosen[-MOST // 2 :])
    top = float(values[within].max() if within.any() else values.max())
    reach = max(top - float(np.median(values)), 1e-6)
    return chosen, -np.log(np.maximum(top - values[chosen], 0.0) + HEADROOM * reach)


def _highest(belief: Posterior, found: Batch) -> Floats:
    mean, deviation = belief.predict(found.points)
    return mean + BETA * deviation
