"""The methods that benchmarks/controllers.py compares: ours as a search runs them, and peers with their own defaults.

A method is a function of (problem, objective, seed, budget) that yields the rows it evaluates, one after the other, and
is sent back the accuracy that the evaluation gave. Peers pay for infeasible and for repeated candidates; "+ table"
means that what the table calls infeasible costs nothing.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.search_problems import SearchProblem
from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.searching.loop import CONTROLLER_ATTEMPTS, derive_seed
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.study.objectives import Metrics, Objective
from nas.study.trials import Trial, TrialState

Method = Callable[[SearchProblem, Objective, int], Generator[Indices, float, None]]


def metrics_of(problem: SearchProblem, row: Indices, accuracy: float) -> Metrics:
    """Return the metrics of a row, (choices,); there are no parameters or MACs in these problems."""
    return Metrics(accuracy, float(problem.domain.facts(row[None]).latency_ms[0]), 0, 0)


def controller(
    name: str, uses_table: bool, problem: SearchProblem, objective: Objective, seed: int
) -> Generator[Indices, float, None]:
    """Ask a controller of ours; with the table as `nas search` does: nothing twice, nothing infeasible."""
    domain = problem.domain
    asked = CONTROLLERS[name](Problem(domain if uses_table else blind(domain), objective))
    tried: set[bytes] = set()
    number = 0
    while True:
        for attempt in range(5_000):
            own = derive_seed(seed, number, attempt)
            if attempt < CONTROLLER_ATTEMPTS:
                row = domain.encode(asked.ask(own))
            else:
                row = domain.sample(1, np.random.default_rng(own))[0]
            facts = domain.facts(row[None])
            key = facts.keys[0].tobytes()
            if not uses_table or (key not in tried and objective.admits(facts.latency_ms[0])):
                break
        tried.add(key)
        accuracy = yield row
        found = metrics_of(problem, row, accuracy)
        choices, values = domain.decode(row), (objective.score(found),)
        asked.tell(Trial(number, choices, "", TrialState.COMPLETE, found, values, (accuracy,)))
        number += 1


def blind(domain: EncodedSpace) -> EncodedSpace:
    """Return a domain that tells no latency and no equal networks: its controllers pay for what they do not see."""
    numbers = itertools.count()

    def facts(rows: Indices) -> CandidateCosts:
        known = domain.facts(rows)
        keys = np.array([next(numbers) for _ in rows])
        return CandidateCosts(keys, np.zeros_like(known.latency_ms), known.features)

    return replace(domain, facts=facts)


def optuna(
    make: Callable[..., Any],
    constrained: bool,
    uses_table: bool,
    problem: SearchProblem,
    objective: Objective,
    seed: int,
) -> Generator[Indices, float, None]:
    """Ask a plain Optuna study, its sampler's defaults untouched; with the table, the infeasible is pruned for free."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    domain = problem.domain
    given: dict[str, Any] = {"seed": seed}
    if constrained:
        given["constraints_func"] = lambda trial: (trial.user_attrs["over"],)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize", sampler=make(**given))
        while True:
            trial = study.ask()
            row = domain.encode(domain.walk(partial(_suggest, trial)))
            latency = float(domain.facts(row[None]).latency_ms[0])
            if uses_table and not objective.admits(latency):
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            trial.set_user_attr("over", latency / problem.limit - 1)
            accuracy = yield row
            value = accuracy if constrained else objective.score(metrics_of(problem, row, accuracy))
            study.tell(trial, value)


def _suggest(trial: Any, key: str, values: tuple[Any, ...]) -> Any:
    return trial.suggest_categorical(key, values)


def methods() -> dict[str, Method]:
    """Return every method by its name in the table: peers first, then ours."""
    from optuna import samplers

    # Plain single-objective peers see an infeasible candidate as one that is worse than any feasible one.
    return {
        "random": partial(controller, "random", False),
        "regularized evolution (50/10)": partial(controller, "evolution", False),
        "regularized evolution + table": partial(controller, "evolution", True),
        "REINFORCE": partial(controller, "reinforce", False),
        "Optuna TPE": partial(optuna, samplers.TPESampler, False, False),
        "Optuna TPE + table": partial(optuna, samplers.TPESampler, False, True),
        "Optuna GP with constraint": partial(optuna, samplers.GPSampler, True, False),
        "Optuna NSGA-II with constraint": partial(optuna, samplers.NSGAIISampler, True, False),
        **{f"nas: {name}": partial(controller, name, True) for name in CONTROLLERS if name not in OPTUNAS},
    }


OPTUNAS = ("tpe", "nsga2", "nsga3", "gp")
"""Controllers that are Optuna's samplers: the plain ones stand for them."""
SLOW = {"Optuna GP with constraint": 100}
"""Evaluations of methods whose proposals take a second or more."""
PEERS = (
    "regularized evolution (50/10)", "regularized evolution + table", "REINFORCE", "Optuna TPE", "Optuna TPE + table",
    "Optuna GP with constraint", "Optuna NSGA-II with constraint",
)  # fmt: skip
