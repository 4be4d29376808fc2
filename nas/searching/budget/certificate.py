"""The certificate of an evaluator: how well its accuracies tell the candidates of a search apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.evaluators.base import Evaluator
from nas.searching.budget.pilot import SATURATED
from nas.searching.context import SearchContext
from nas.study.reliability import POOR, Reliability, measure_reliability
from nas.study.study import Study


def certificate_of(context: SearchContext, study: Study, evaluator: Evaluator) -> dict[str, Any] | None:
    """Return the certificate as `result.json` holds it, and warn if the ranking is mostly noise.

    With a pilot, it is the pilot's; `candidates` in it is the reliability of the accuracies of the search's own
    candidates, measured afterwards. Without a pilot, the certificate holds only the latter.

    Args:
        context: The search.
        study: Its trials and the repeats of its finalists.
        evaluator: The evaluator of the candidates.

    Returns:
        The certificate; None for an evaluator whose accuracies do not depend on the seed, or if nothing was repeated.
    """
    if getattr(evaluator, "deterministic", False):
        return None
    found, wanted = measure_reliability(list(study.accuracies().values())), context.settings.reliability
    if found is not None and found.reliability < POOR and found.mean < SATURATED:
        context.reporter.warn(describe_noise(found, wanted, evaluator.settings))
    if context.pilot is not None and context.pilot.certificate:
        return {**context.pilot.certificate, "candidates": found.to_dict() if found else None}
    if found is None:
        return None
    task = context.task
    return {
        **found.to_dict(),
        "wanted": wanted,
        "suffices": found.reliability >= wanted,
        "chance": task.chance,
        "budget": _budget(evaluator.settings),
    }


def _budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return resolution, epochs and images of an evaluation, as far as the evaluator has them."""
    names = {"resolution": "resolution", "epochs": "epochs", "images": "train_images"}
    return {name: settings[key] for name, key in names.items() if key in settings}


def describe_noise(found: Reliability, wanted: float, settings: Mapping[str, Any]) -> str:
    """Return a warning that says how noisy the accuracies are, and which budget would do.

    More training reduces the noise about as averaging would: k times the images count as k evaluations.
    """
    times = found.times_for(wanted)
    advice = "no longer training is likely to help: the candidates hardly differ"
    if times < 100 and "epochs" in settings:
        longer = int(settings["epochs"]) * times
        advice = f"about {times} times the training would do (--proxy-epochs {longer}), or a --budget, which finds it"
    elif times < 100:
        advice = f"the mean of about {times} evaluations would do"
    return (
        f"the accuracies of candidates are mostly noise: reliability {found}, another seed moves an accuracy by "
        f"{found.noise:.1%}, candidates differ by {found.between:.1%}; {advice}"
    )
