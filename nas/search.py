"""The serial loop: ask, decode, predict the latency, evaluate what is worth it, record, tell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.controllers.random import RandomController
from nas.evaluators import Evaluator
from nas.network import canonical, totals, trace
from nas.objective import Metrics, Objective
from nas.progress import Reporter
from nas.space import Space
from nas.study import Study, Trial
from nas.training import TrainingError
from nas.units import format_latency

CONTROLLER_ATTEMPTS = 50
"""How often a controller may ask for what was tried or is out of reach before random candidates step in."""
ALL_ATTEMPTS = 5_000


@dataclass(frozen=True)
class Candidate:
    """A proposal that was not tried before, with its predicted latency in ms."""

    choices: dict[str, Scalar]
    architecture: Architecture
    latency_ms: float


def search(
    space: Space,
    controller: Controller,
    evaluator: Evaluator,
    objective: Objective,
    predict: Callable[[Architecture], float],
    study: Study,
    trials: int,
    seed: int,
    reporter: Reporter,
) -> None:
    """Fill `study` up to `trials` candidates; what it holds already is told to the controller, not evaluated again."""
    for trial in study.trials:
        controller.tell(trial.choices, trial.values)
    with reporter.task("searching", trials) as advance:
        advance(study.count)
        while study.count < trials:
            candidate = propose(space, controller, objective, predict, study, seed)
            if candidate is None:
                reporter.warn(f"nothing new within reach after {ALL_ATTEMPTS} tries: {study.count} candidates tried")
                break
            evaluate(candidate, controller, evaluator, objective, study, seed, reporter)
            advance(1)


def propose(
    space: Space,
    controller: Controller,
    objective: Objective,
    predict: Callable[[Architecture], float],
    study: Study,
    seed: int,
) -> Candidate | None:
    """Return a candidate that is new and that the objective admits, or None where none was found."""
    tried = study.digests
    anything = RandomController(space, objective.directions)
    for attempt in range(ALL_ATTEMPTS):
        asked = controller if attempt < CONTROLLER_ATTEMPTS else anything
        choices = asked.ask(derive_seed(seed, study.count, attempt))
        arch = canonical(space.decode(choices))
        if arch.digest in tried:
            continue
        latency_ms = predict(arch)
        if objective.admits(latency_ms):
            return Candidate(choices, arch, latency_ms)
    return None


def evaluate(
    candidate: Candidate,
    controller: Controller,
    evaluator: Evaluator,
    objective: Objective,
    study: Study,
    seed: int,
    reporter: Reporter,
) -> None:
    """Evaluate one candidate, record it and tell the controller. A training that fails is recorded as failed."""
    started = time.monotonic()
    arch = candidate.architecture
    try:
        accuracy = last(evaluator.evaluate(arch, seed))
    except TrainingError as error:
        study.record_failure(candidate.choices, arch, str(error))
        reporter.warn(f"{arch.digest} failed: {error}")
        return
    whole = totals(trace(arch))
    metrics = Metrics(accuracy, candidate.latency_ms, whole.params, whole.macs)
    values = objective(metrics)
    trial = study.record(candidate.choices, arch, metrics, values, time.monotonic() - started)
    controller.tell(trial.choices, values)
    best = max(study.trials, key=lambda trial: objective.score(trial.metrics))
    reporter.say(f"trial {study.count}: {describe(trial, objective)}; best so far {describe(best, objective)}")


def describe(trial: Trial, objective: Objective) -> str:
    """Return a trial in words."""
    metrics = trial.metrics
    score = objective.score(metrics)
    return f"{metrics.accuracy:.1%} at {format_latency(metrics.latency_ms)} (score {score:.3f})"


def last(accuracies: Iterator[float]) -> float:
    """Return the last accuracy. Raises TrainingError where there is none or it is not in [0, 1]."""
    accuracy = float("nan")
    for accuracy in accuracies:  # noqa: B007 (the last one counts)
        pass
    if not 0 <= accuracy <= 1:
        raise TrainingError(f"an accuracy must lie in [0, 1]: {accuracy}")
    return accuracy


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2^31) that depends on all parts."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
