"""Starts from earlier work: the trials of another run, and networks that are known to be good.

If another run evaluated the same networks in the same way, the controller learns from its trials directly. Of any
other run, the best networks are evaluated again first. Networks given by name are evaluated first too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.devices.runtimes import RUNTIMES, precision_of
from nas.errors import RunError, SpaceError, UsageError
from nas.networks.network import canonical, totals, trace
from nas.searching.resolution.choice import space_of_run
from nas.spaces.automaton import choices_for
from nas.spaces.identity import hex_digest
from nas.spaces.search_space import Choices, Space
from nas.spaces.yaml_format import load_architecture
from nas.study.objectives import Metrics, Objective
from nas.study.ranking import front
from nas.study.trial_store import evaluated, find
from nas.study.trials import Trial, TrialState
from nas.utils.reporting import Reporter
from nas.utils.run_identity import IMAGES_KEY, same_setting

ACCURACY_SETTINGS = (
    "task", "space_digest", "data", "fit", "train_images", "metric", "class_weights", "flip", "evaluator", "source",
    "source_digest", "evaluator_source", "block_source", "weights",
)  # fmt: skip
"""The settings that determine an accuracy, apart from its noise."""
SEED_FREE = ("proxy_training", "tabular")
"""Evaluators whose accuracies are comparable between seeds. The others may share weights or images by the seed."""
MOST_REEVALUATED = 8
"""At most this many networks of another run are evaluated again."""


@dataclass(frozen=True)
class PriorNetwork:
    """A network of the space that earlier work found.

    Attributes:
        choices: Its choices in the space.
        architecture: The network.
        accuracy: Its accuracy in a trial; None if it was given by name.
    """

    choices: Choices
    architecture: Architecture
    accuracy: float | None = None


@dataclass(frozen=True)
class PriorSource:
    """The networks of one --start-from.

    Attributes:
        name: The folder, name or file.
        networks: The networks.
        same: Whether they were evaluated as in this run, so that their accuracies count here.
        flag: The flag that names them.
    """

    name: str
    networks: tuple[PriorNetwork, ...]
    same: bool = False
    flag: str = "--start-from"


@dataclass(frozen=True)
class PriorKnowledge:
    """What a search starts with.

    Attributes:
        trials: The trials that the controller learns from.
        digests: The digests of their architectures.
        first: The choices of the candidates to evaluate first, by digest.
    """

    trials: tuple[Trial, ...] = ()
    digests: frozenset[str] = frozenset()
    first: Mapping[str, Choices] = field(default_factory=dict)


def read_sources(
    names: Sequence[str], space: Space, settings: Mapping[str, Any], folder: Path
) -> tuple[PriorSource, ...]:
    """Return the networks of each --start-from.

    Args:
        names: Run folders, network names and network files.
        space: The space of this search.
        settings: The settings of this run.
        folder: The folder of this run.

    Raises:
        UsageError: A name is unknown, is this run's folder or a run of another task, or has no network that the space
            contains.
        RunError: A run folder is unreadable.
    """
    found = []
    for name in names:
        if Path(name).expanduser().is_dir():
            if Path(name).expanduser().resolve() == folder.resolve():
                raise UsageError("is the folder of this run itself; give another --run", where=_flag(name))
            found.append(_read_run(name, space, settings))
        else:
            try:
                arch = load_architecture(name)
            except SpaceError as error:
                raise UsageError(str(error), where=_flag(name)) from error
            nearest = min(space.resolution, key=lambda size: abs(size - arch.resolution))
            fitting = arch.at(nearest).with_input(space.input)
            found.append(PriorSource(name, (find_in_space(fitting, space, name),)))
    return tuple(found)


def prior_identity(sources: Sequence[PriorSource]) -> dict[str, Any]:
    """Return what identifies the sources: their names, and a digest of their names and networks."""
    if not sources:
        return {}
    digest = hex_digest(repr([(source.name, *_content(source)) for source in sources]))
    return {"start_from": [source.name for source in sources], "start_from_digest": digest}


def prior_content(sources: Sequence[PriorSource]) -> dict[str, Any]:
    """Return the digest of the sources' networks without their names, which may be spelled in several ways."""
    return {"start_from_content": hex_digest(repr([_content(source) for source in sources]))} if sources else {}


def _content(source: PriorSource) -> tuple[bool, list[tuple[str, float | None]]]:
    return source.same, [(network.architecture.digest, network.accuracy) for network in source.networks]


def make_prior_knowledge(
    sources: Sequence[PriorSource],
    objective: Objective,
    predict: Callable[[Architecture], float],
    reporter: Reporter,
    extra_metrics: Callable[[Architecture], dict[str, Any]] = lambda _: {},
) -> PriorKnowledge:
    """Return what the search starts with. Networks that the objective does not admit are left out.

    If the accuracies of a source do not count here, its nondominated networks in accuracy and latency are evaluated
    first, at most the eight with the highest scores.

    Args:
        sources: The networks of earlier work.
        objective: The objective of this search.
        predict: Predicts the latency of a network in ms, on this search's device.
        reporter: Prints what is used.
        extra_metrics: Further metrics of a network that are known before its evaluation, by name.
    """
    trials: dict[str, Trial] = {}
    first: dict[str, Choices] = {}
    for source in sources:
        found = [
            (network, metrics)
            for network in source.networks
            if (metrics := _admitted_metrics(network, objective, predict, extra_metrics))
        ]
        lost = len(source.networks) - len(found)
        beyond = f"; {lost} beyond the target left out" if lost else ""
        if source.same:
            for network, metrics in found:
                digest, state = network.architecture.digest, TrialState.COMPLETE
                trials[digest] = Trial(-1, network.choices, digest, state, metrics, objective(metrics))
            reporter.say(f"--start-from {source.name}: {len(found)} candidates are known{beyond}")
        else:
            best = _best(found, objective)
            first |= {network.architecture.digest: network.choices for network in best}
            names = ", ".join(network.architecture.digest for network in best) or "none"
            reporter.say(f"{source.flag} {source.name}: tried first: {names}{beyond}")
    first = {digest: choices for digest, choices in first.items() if digest not in trials}
    return PriorKnowledge(tuple(trials.values()), frozenset(trials), first)


def _admitted_metrics(
    network: PriorNetwork,
    objective: Objective,
    predict: Callable[[Architecture], float],
    extra_metrics: Callable[[Architecture], dict[str, Any]],
) -> Metrics | None:
    """Return the metrics of a network in this search; None if the objective does not admit it."""
    latency_ms, more = predict(network.architecture), extra_metrics(network.architecture)
    if not objective.admits(more.get("latencies_ms", latency_ms)):
        return None
    whole = totals(trace(network.architecture))
    return Metrics(network.accuracy or 0.0, latency_ms, whole.params, whole.macs, **more)


def _best(networks: Sequence[tuple[PriorNetwork, Metrics]], objective: Objective) -> list[PriorNetwork]:
    """Return the best networks of the front by score; all networks if an accuracy is unknown."""
    if any(network.accuracy is None for network, _ in networks):
        return [network for network, _ in networks]
    metrics = [each for _, each in networks]
    best = sorted(front(metrics), key=lambda index: -objective.score(metrics[index]))[:MOST_REEVALUATED]
    return [networks[index][0] for index in best]


def _read_run(name: str, space: Space, settings: Mapping[str, Any]) -> PriorSource:
    stored, trials = _read_store(name)
    if stored and not same_setting("task", stored, settings):
        there, here = (each.get("task") or "classification" for each in (stored, settings))
        raise UsageError(f"is a run of {there}: this search is one of {here}", where=_flag(name))
    seed = () if settings.get("evaluator") in SEED_FREE else ("seed",)
    same = all(same_setting(key, stored, settings) for key in (*ACCURACY_SETTINGS, *seed))
    runtimes = [each.get("runtime", "onnxruntime") for each in (stored, settings)]
    same = same and len({precision_of(name) for name in runtimes if name in RUNTIMES}) <= 1
    same = same and (IMAGES_KEY not in stored or stored[IMAGES_KEY] == settings.get(IMAGES_KEY))
    other = "space" in stored and stored.get("space_digest") != settings.get("space_digest")
    origin = space_of_run(stored) if other else space
    found: dict[str, PriorNetwork] = {}
    refused: UsageError | None = None
    for trial in trials:
        try:
            network = find_in_space(_architecture(trial, origin, name), space, name)
            found[network.architecture.digest] = replace(network, accuracy=_accuracy(trial))
        except UsageError as error:
            refused = refused or error
        except (SpaceError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"trial {trial.get('number')} cannot be read: {error}", where=_flag(name)) from error
    if not found:
        raise refused or UsageError("no trial of this run is complete", where=_flag(name))
    return PriorSource(name, tuple(found.values()), same)


def _architecture(trial: Mapping[str, Any], origin: Space, name: str) -> Architecture:
    """Return the network that a trial chose in the space of its run. Older journals contain the network itself."""
    if "architecture" in trial:
        return Architecture.from_dict(trial["architecture"], f"{name}: trial {trial['number']}")
    return origin.decode(trial["choices"])


def _accuracy(trial: Mapping[str, Any]) -> float:
    accuracy = float(trial["metrics"]["accuracy"])
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy must be in [0, 1]: {accuracy}")
    return accuracy


def _read_store(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the settings and the complete trials of a run. The run may have been killed."""
    try:
        store = find(Path(name).expanduser())
        settings, found = store.attributes().get("settings") or {}, evaluated(store)
    except RunError as error:
        raise RunError(f"--start-from {str(error).removeprefix('--')}") from error
    if not isinstance(settings, dict):
        raise RunError("the settings of its search cannot be read", where=_flag(name), value=settings)
    trials = [{**frozen.user_attrs, "number": number, "choices": frozen.params} for number, frozen in found]
    return settings, [trial for trial in trials if trial.get("stopped_at") is None]


def source_of_network(name: str, arch: Architecture, space: Space, flag: str) -> PriorSource | None:
    """Return a network, at the size of the space that is nearest to its own, as a source.

    None if the space does not contain it.
    """
    nearest = min(space.resolution, key=lambda size: abs(size - arch.resolution))
    try:
        network = find_in_space(arch.at(nearest).with_input(space.input), space, name, flag)
    except (SpaceError, UsageError):
        return None
    return PriorSource(name, (network,), flag=flag)


def find_in_space(arch: Architecture, space: Space, name: str, flag: str = "--start-from") -> PriorNetwork:
    """Return the network with a head for the space's classes. Raises UsageError if the space does not contain it."""
    classes = dict(space.head.args).get("num_classes", (None,))[0]
    if classes is not None:
        arch = arch.for_classes(int(classes))
    try:
        if arch.resolution not in space.resolution:
            raise SpaceError(f"offers no resolution of {arch.input_size} px", where=space.name)
        choices = choices_for(space, arch)
    except SpaceError as error:
        raise UsageError(str(error), where=f"{flag} {name}") from error
    return PriorNetwork(choices, canonical(space.decode(choices)))


def _flag(name: str) -> str:
    """Return where an error is: the flag and its value."""
    return f"--start-from {name}"
