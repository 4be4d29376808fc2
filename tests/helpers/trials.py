"""Trials for tests, and studies filled with them."""

from __future__ import annotations

from nas.architecture import Architecture
from nas.spaces.search_space import Choices
from nas.study.objectives import Metrics
from nas.study.study import Study
from nas.study.trials import NO_RESULT, Trial, TrialState


def ended_trial(
    choices: Choices,
    metrics: Metrics = NO_RESULT,
    values: tuple[float, ...] = NO_RESULT,
    stopped: bool = False,
    curve: tuple[float, ...] = (),
) -> Trial:
    """Return a trial as a controller gets it; a failed one without `values`."""
    state = TrialState.FAILED if not values else TrialState.STOPPED if stopped else TrialState.COMPLETE
    return Trial(0, choices, "", state, metrics, values, curve)


def running_trial(number: int, curve: tuple[float, ...], costs: Metrics) -> Trial:
    """Return a trial that is being evaluated."""
    return Trial(number, {}, "", TrialState.RUNNING, costs, curve=curve)


def record(
    study: Study, choices: Choices, arch: Architecture, metrics: Metrics, values: tuple[float, ...],
    duration_s: float = 0.0, curve: tuple[float, ...] = (), stopped: bool = False,
) -> Trial:  # fmt: skip
    """Claim a candidate and write its result."""
    claim = study.claim(choices, arch.digest)
    assert claim is not None, f"{arch.digest} was tried already"
    trial = study.end(claim, metrics, values, duration_s, curve, stopped)
    assert trial is not None
    return trial


def record_failure(study: Study, choices: Choices, arch: Architecture, reason: str) -> None:
    """Claim a candidate and write why it failed."""
    claim = study.claim(choices, arch.digest)
    assert claim is not None, f"{arch.digest} was tried already"
    assert study.fail(claim, reason)
