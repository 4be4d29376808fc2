"""A start from earlier work: the trials of another run, and networks that are known to be good.

Trials of a run that evaluated the same networks in the same way are told to the controller as they are. Of any other
run the best few are evaluated first, here; so are networks given by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.controllers.base import Observation
from nas.errors import RunError, SpaceError, UsageError
from nas.networks.network import canonical, totals, trace
from nas.spaces.automaton import choices_for
from nas.spaces.search_space import Choices, Space
from nas.spaces.yaml_format import load_architecture, load_space
from nas.study.objectives import Metrics, Objective
from nas.study.ranking import front
from nas.study.trial_store import evaluated, find
from nas.utils.reporting import Reporter

SAME = ("space_digest", "data", "train_images", "evaluator", "source", "source_digest")
"""Settings that decide an accuracy, up to its noise."""
FREE_OF_SEED = ("proxy_training", "tabular")
"""Evaluators whose accuracies of two seeds are two of one kind: all others may share weights or images by the seed."""
FEW = 8
"""At most so many networks of another run are evaluated again."""


@dataclass(frozen=True)
class PriorNetwork:
    """A network that the space holds; without an accuracy where a name stands for it and not a trial."""

    choices: Choices
    architecture: Architecture
    accuracy: float | None = None


@dataclass(frozen=True)
class PriorSource:
    """What one --start-from gives; `same` where its accuracies count here."""

    name: str
    networks: tuple[PriorNetwork, ...]
    same: bool = False


@dataclass(frozen=True)
class PriorKnowledge:
    """What a search begins with: candidates to tell, their digests, and candidates to ask for first, by digest."""

    told: tuple[Observation, ...] = ()
    digests: frozenset[str] = frozenset()
    first: Mapping[str, Choices] = field(default_factory=dict)


def read_sources(
    names: Sequence[str], space: Space, settings: Mapping[str, Any], folder: Path
) -> tuple[PriorSource, ...]:
    """Return what each of `names` gives: a run's folder, or the name or YAML of one network.

    `settings` are those of the run to be, `folder` is its own. Raises UsageError or RunError where one is neither, is
    that folder, or has nothing that the space holds.
    """
    found = []
    for name in names:
        if Path(name).is_dir():
            if Path(name).resolve() == folder.resolve():
                raise UsageError(f"--start-from {name}: is the folder of this run itself; give another --run")
            found.append(_read_run(name, space, settings))
        else:
            try:
                arch = load_architecture(name)
            except SpaceError as error:
                raise UsageError(f"--start-from {name}: {error}") from error
            fitting = arch.at(min(space.resolution, key=lambda size: abs(size - arch.resolution)))
            found.append(PriorSource(name, (_held(fitting, space, name),)))
    return tuple(found)


def prior_identity(sources: Sequence[PriorSource]) -> dict[str, Any]:
    """Return what makes a start another than the next: its names, and a digest of all that they gave."""
    if not sources:
        return {}
    parts = [
        (source.name, source.same, [(held.architecture.digest, held.accuracy) for held in source.networks])
        for source in sources
    ]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return {"start_from": [source.name for source in sources], "start_from_digest": digest}


def make_prior_knowledge(
    sources: Sequence[PriorSource],
    objective: Objective,
    predict: Callable[[Architecture], float],
    reporter: Reporter,
    extra_metrics: Callable[[Architecture], dict[str, Any]] = lambda _: {},
) -> PriorKnowledge:
    """Return what the search begins with: latencies are predicted anew, what is out of reach is left out.

    `beside` gives what else of Metrics is known beforehand, as the latencies on several devices.

    Of a source whose accuracies do not count here, the networks that no other of it beats in accuracy and latency are
    asked for, the eight of the highest score at most.
    """
    told: dict[str, Observation] = {}
    first: dict[str, Choices] = {}
    for source in sources:
        found = [
            (held, metrics)
            for held in source.networks
            if (metrics := _metrics(held, objective, predict, extra_metrics))
        ]
        lost = len(source.networks) - len(found)
        beyond = f"; {lost} beyond the target left out" if lost else ""
        if source.same:
            for held, metrics in found:
                told[held.architecture.digest] = Observation(held.choices, metrics, objective(metrics))
            reporter.say(f"--start-from {source.name}: {len(found)} candidates are known{beyond}")
        else:
            chosen = _best(found, objective)
            first |= {held.architecture.digest: held.choices for held in chosen}
            names = ", ".join(held.architecture.digest for held in chosen) or "none"
            reporter.say(f"--start-from {source.name}: tried first: {names}{beyond}")
    first = {digest: choices for digest, choices in first.items() if digest not in told}
    return PriorKnowledge(tuple(told.values()), frozenset(told), first)


def _metrics(
    held: PriorNetwork,
    objective: Objective,
    predict: Callable[[Architecture], float],
    extra_metrics: Callable[[Architecture], dict[str, Any]],
) -> Metrics | None:
    """Return the metrics of a network here, None where the objective does not admit it."""
    latency_ms, more = predict(held.architecture), extra_metrics(held.architecture)
    if not objective.admits(more.get("latencies_ms", latency_ms)):
        return None
    whole = totals(trace(held.architecture))
    return Metrics(held.accuracy or 0.0, latency_ms, whole.params, whole.macs, **more)


def _best(networks: Sequence[tuple[PriorNetwork, Metrics]], objective: Objective) -> list[PriorNetwork]:
    """Return the front's best by the score; all of them where their accuracies are not known."""
    if any(held.accuracy is None for held, _ in networks):
        return [held for held, _ in networks]
    metrics = [each for _, each in networks]
    best = sorted(front(metrics), key=lambda index: -objective.score(metrics[index]))[:FEW]
    return [networks[index][0] for index in best]


def _read_run(name: str, space: Space, settings: Mapping[str, Any]) -> PriorSource:
    stored, trials = _kept(name)
    free = settings.get("evaluator") in FREE_OF_SEED
    same = all(stored.get(key) == settings.get(key) for key in (*SAME, *(() if free else ("seed",))))
    other = "space" in stored and stored.get("space_digest") != settings.get("space_digest")
    origin = load_space(str(stored["space"])) if other else space
    found: dict[str, PriorNetwork] = {}
    refused = ""
    for trial in trials:
        try:
            arch = _architecture(trial, origin, name)
            held = _held(arch, space, name)
            found[held.architecture.digest] = replace(held, accuracy=_accuracy(trial))
        except UsageError as error:
            refused = refused or str(error)
        except (SpaceError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"--start-from {name}: trial {trial.get('number')} cannot be read: {error}") from error
    if not found:
        raise UsageError(refused or f"--start-from {name}: no trial of it was evaluated to its end")
    return PriorSource(name, tuple(found.values()), same)


def _architecture(trial: Mapping[str, Any], origin: Space, name: str) -> Architecture:
    """Return the network that a trial chose in the space of its run; journals of before hold it as it is."""
    if "architecture" in trial:
        return Architecture.from_dict(trial["architecture"], f"{name}: trial {trial['number']}")
    return origin.decode(trial["choices"])


def _accuracy(trial: Mapping[str, Any]) -> float:
    accuracy = float(trial["metrics"]["accuracy"])
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy must lie in [0, 1]: {accuracy}")
    return accuracy


def _kept(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a run's settings and what is kept of each finished trial, wherever; of a search that was killed, too."""
    try:
        store = find(Path(name))
        settings, found = store.attributes().get("settings") or {}, evaluated(store)
    except RunError as error:
        raise RunError(f"--start-from {str(error).removeprefix('--')}") from error
    if not isinstance(settings, dict):
        raise RunError(f"--start-from {name}: the settings of its search cannot be read: {settings!r}")
    trials = [{**frozen.user_attrs, "number": number, "choices": frozen.params} for number, frozen in found]
    return settings, [trial for trial in trials if trial.get("stopped_at") is None]


def _held(arch: Architecture, space: Space, name: str) -> PriorNetwork:
    """Return the network with a head of the space's classes. Raises UsageError where the space does not hold it."""
    classes = dict(space.head.args).get("num_classes", (None,))[0]
    if classes is not None:
        arch = arch.for_classes(int(classes))
    try:
        if arch.resolution not in space.resolution:
            raise SpaceError(f"{space.name}: offers no resolution of {arch.resolution} px")
        if len(arch.stages) != len(space.stages):
            raise SpaceError(f"{space.name}: has {len(space.stages)} stages, this network {len(arch.stages)}")
        choices = choices_for(space, arch)
    except SpaceError as error:
        raise UsageError(f"--start-from {name}: {error}") from error
    return PriorNetwork(choices, canonical(space.decode(choices)))
