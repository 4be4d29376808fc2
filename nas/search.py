"""The serial loop: ask, decode, predict the latency, evaluate what is worth it, record, tell."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.errors import NasError, RunError, UsageError
from nas.evaluators import Evaluator
from nas.network import canonical, totals, trace
from nas.objective import Metrics, Objective
from nas.problem import Told
from nas.progress import Reporter
from nas.rungs import Entry, Rungs
from nas.space import Space
from nas.study import Study, Trial
from nas.training import TrainingError
from nas.units import format_latency

CONTROLLER_ATTEMPTS = 50
"""How often a controller may ask for what was tried or is out of reach before random candidates step in."""
ALL_ATTEMPTS = 5_000
HOPELESS = 5
"""A search whose first candidates all fail alike ends after so many: the input is wrong, not the candidates."""


@dataclass(frozen=True)
class Plan:
    """What a search is made of; `predict` gives the latency of a network in ms, `rungs` stop trainings early.

    `known` are the digests of networks that earlier work evaluated: they are never proposed.
    """

    space: Space
    controller: Controller
    evaluator: Evaluator
    objective: Objective
    predict: Callable[[Architecture], float]
    rungs: Rungs
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """A proposal that was not tried before, with its predicted latency in ms."""

    choices: dict[str, Scalar]
    architecture: Architecture
    latency_ms: float


def search(plan: Plan, study: Study, trials: int, seed: int, reporter: Reporter) -> None:
    """Fill `study` up to `trials` candidates; what it holds already is told to the controller, not evaluated again.

    Raises UsageError where nothing but failures alike came of the first candidates.
    """
    for trial in study.evaluated:
        plan.controller.tell(told(trial))
    with reporter.task("searching", trials) as advance:
        advance(study.count)
        while study.count < trials:
            candidate = propose(plan, study, seed)
            if candidate is None:
                reporter.warn(f"nothing new within reach after {ALL_ATTEMPTS} tries: {study.count} candidates tried")
                break
            evaluate(plan, candidate, study, seed, reporter)
            advance(1)


def propose(plan: Plan, study: Study, seed: int) -> Candidate | None:
    """Return a candidate that is new and that the objective admits, or None where none was found."""
    tried = study.digests | plan.known
    for attempt in range(ALL_ATTEMPTS):
        own = derive_seed(seed, study.count, attempt)
        asked = attempt < CONTROLLER_ATTEMPTS
        choices = plan.controller.ask(own) if asked else plan.space.sample(random.Random(own))
        arch = canonical(plan.space.decode(choices))
        if arch.digest in tried:
            continue
        latency_ms = plan.predict(arch)
        if plan.objective.admits(latency_ms):
            return Candidate(choices, arch, latency_ms)
    return None


def evaluate(plan: Plan, candidate: Candidate, study: Study, seed: int, reporter: Reporter) -> None:
    """Evaluate one candidate as far as the rungs let it, record it and tell the controller.

    Whatever the evaluator raises is recorded as the candidate's failure; only what stops any evaluation (Ctrl-C, a
    run folder that cannot be written) goes on upwards. Of a stopped candidate the controller is told the values at
    its rung: what it would have reached is better, so it counts for less than it is worth and never for more, and
    it was among the worse of its rung.
    """
    started = time.monotonic()
    arch, number = candidate.architecture, study.count
    whole = totals(trace(arch))
    costs = Metrics(0.0, candidate.latency_ms, whole.params, whole.macs)
    others = [Entry(trial.number, trial.curve, trial.metrics) for trial in study.evaluated]

    def stops(curve: tuple[float, ...]) -> bool:
        return plan.rungs.stops(Entry(number, curve, costs), others, plan.objective)

    try:
        curve, stopped = follow(plan.evaluator.evaluate(arch, seed), stops)
    except RunError:
        raise
    except Exception as error:
        study.record_failure(candidate.choices, arch, reason(error))
        plan.controller.tell(Told(candidate.choices, None, None))
        reporter.warn(f"{arch.digest} failed: {reason(error)}")
        give_up_if_hopeless(study)
        return
    metrics = replace(costs, accuracy=curve[-1])
    values = plan.objective(metrics)
    taken_s = time.monotonic() - started
    trial = study.record(candidate.choices, arch, metrics, values, taken_s, curve, stopped)
    plan.controller.tell(told(trial))
    best = incumbent(study, plan.objective)
    words = describe(trial, plan.objective)
    if stopped:
        words += f", stopped after {len(curve)} of {plan.rungs.epochs} epochs"
    reporter.say(f"trial {study.count}: {words}; best so far {describe(best, plan.objective)}")


def told(trial: Trial) -> Told:
    """Return what a controller is told of a finished trial."""
    return Told(trial.choices, trial.metrics, trial.values, trial.stopped_at is not None)


def follow(accuracies: Iterator[Any], stops: Callable[[tuple[float, ...]], bool]) -> tuple[tuple[float, ...], bool]:
    """Return the accuracies until their end or until `stops` says so of the curve so far, and whether it did.

    Raises TrainingError where there is none, or one is not a number in [0, 1].
    """
    curve: tuple[float, ...] = ()
    with contextlib.ExitStack() as stack:
        if hasattr(accuracies, "close"):
            stack.callback(accuracies.close)  # a training that is stopped gives its memory back now
        for accuracy in accuracies:
            if isinstance(accuracy, bool) or not isinstance(accuracy, Real) or not 0 <= float(accuracy) <= 1:
                raise TrainingError(f"an accuracy must be a number in [0, 1]: {accuracy!r}")
            curve = (*curve, float(accuracy))
            if stops(curve):
                return curve, True
    if not curve:
        raise TrainingError("the evaluator gave no accuracy")
    return curve, False


def reason(error: Exception) -> str:
    """Return in one line what went wrong: a mistake that we name as it is, anything else with its type and place."""
    message = " ".join(str(error).split())
    message = message if len(message) <= 300 else f"{message[:297]}..."
    if isinstance(error, NasError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{place}" if message else f"{type(error).__name__}{place}"


def give_up_if_hopeless(study: Study) -> None:
    """Raise UsageError where all candidates so far failed, for reasons that differ in figures at most."""
    reasons = [why for _, why in study.failed]
    alike = {re.sub(r"\d[\d.e+-]*", "#", why) for why in reasons}
    if study.evaluated or len(reasons) < HOPELESS or len(alike) > 1:
        return
    raise UsageError(f"--evaluator: the first {len(reasons)} candidates all failed alike, the last: {reasons[-1]}")


def incumbent(study: Study, objective: Objective) -> Trial:
    """Return the best of the trials that finished, by what is known of their accuracy.

    Where finalists were evaluated again earlier in this run, the noise is known, and a value that stands out by luck
    counts for less. A controller cannot be told so: TPE knows no noise, it takes each value as it is.
    """
    noise, accuracies = study.noise, study.accuracies()

    def score(trial: Trial) -> float:
        known = accuracies[trial.architecture.digest]
        estimate = noise.estimate(known) if noise else known[0]
        return objective.score(replace(trial.metrics, accuracy=estimate))

    return max(study.trials, key=score)


def describe(trial: Trial, objective: Objective) -> str:
    """Return a trial in words."""
    metrics = trial.metrics
    score = objective.score(metrics)
    return f"{metrics.accuracy:.1%} at {format_latency(metrics.latency_ms)} (score {score:.3f})"


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2^31) that depends on all parts."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
