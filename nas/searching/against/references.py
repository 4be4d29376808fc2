"""References: the networks that `--against` names or that the search chooses, before they are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import NasError, RunError, SpaceError, UsageError
from nas.networks.block_schema import is_classifier, is_detector_head
from nas.networks.network import canonical
from nas.searching.prior_runs import PriorSource, source_of_network
from nas.searching.settings import AUTO, NONE, SearchSettings
from nas.spaces.identity import hex_digest
from nas.spaces.search_space import Space
from nas.study.objectives import Goal
from nas.training.job import read_architecture

KEY, DIGEST, CHOSEN = "against", "against_digest", "against_chosen"
"""The keys of a run's identity: the names as given, the digest of the networks, and the network of each goal."""


@dataclass(frozen=True)
class Reference:
    """A network that the winner is compared with.

    Attributes:
        name: Its name, YAML file or folder.
        architecture: The network at its own resolution, with a head for the task's classes.
        published: Its published accuracy in percent, for a network that the search chose: the top-1 accuracy on
            ImageNet, or the AP on COCO.
    """

    name: str
    architecture: Architecture
    published: float | None = None

    @property
    def is_detector(self) -> bool:
        """Whether the network is a detector."""
        return is_detector_head(self.architecture.head.op)

    @property
    def label(self) -> str:
        """The name as a part of a folder's name."""
        return re.sub(r"[^\w.]+", "_", re.sub(r"\.(ya?ml|json)$", "", Path(self.name).name))

    def at(self, resolution: int) -> Architecture:
        """Return the network at a resolution in its canonical form. Raises SpaceError if it cannot be built."""
        return canonical(self.architecture.at(resolution))


@dataclass(frozen=True)
class References:
    """All references of a search.

    Attributes:
        names: The values of `--against`; empty if there are no references.
        named: The references that `--against` names.
        chosen: The references that the search chose, by the goal's name: None for a goal without one. The mapping is
            None before the choice.
        is_older: Whether the run began before there were references, so that it continues without them.
    """

    names: tuple[str, ...] = ()
    named: tuple[Reference, ...] = ()
    chosen: Mapping[str, Reference | None] | None = field(default=None)
    is_older: bool = False

    @property
    def must_choose(self) -> bool:
        """Whether the search has yet to choose references."""
        return AUTO in self.names and self.chosen is None

    def of(self, goal: Goal) -> tuple[Reference, ...]:
        """Return the references of a goal: the named ones, then the chosen one."""
        chosen = (self.chosen or {}).get(goal.name)
        return (*self.named, *([chosen] if chosen else []))

    @property
    def all(self) -> tuple[Reference, ...]:
        """The references of all goals."""
        chosen = [reference for reference in (self.chosen or {}).values() if reference]
        return tuple({each.architecture.digest: each for each in (*self.named, *chosen)}.values())

    @property
    def identity(self) -> dict[str, Any]:
        """The part of a run's identity that the references decide; {} without references."""
        found: dict[str, Any] = {}
        if self.names:
            found[KEY] = list(self.names)
        if self.named:
            found[DIGEST] = hex_digest(repr([each.architecture.digest for each in self.named]))
        if self.chosen is not None:
            found[CHOSEN] = {
                goal: [each.name, each.architecture.digest] if each else None for goal, each in self.chosen.items()
            }
        return found

    def sources(self, space: Space) -> tuple[PriorSource, ...]:
        """Return the references that the space contains, which the search evaluates first."""
        found = (source_of_network(each.name, each.architecture, space, "--against") for each in self.all)
        return tuple(filter(None, found))


def read_references(settings: SearchSettings, space: Space, stored: Mapping[str, Any] | None) -> References:
    """Return the references of a search, as far as they are known before anything is measured.

    A run that chose its references keeps them. A run that began without any continues without the default.

    Args:
        settings: The settings of the search.
        space: The space, with a head for the task's classes.
        stored: What identifies the run in the run folder; None for a new run.

    Raises:
        UsageError: A network is unknown, or cannot be built at the resolutions of the search.
        RunError: A folder is not an exported network.
    """
    names = settings.references
    if stored is not None and KEY not in stored and names == (AUTO,):
        return References(is_older=True)
    named = tuple(make_reference(name, space) for name in names if name not in (AUTO, NONE))
    chosen = stored.get(CHOSEN) if stored and AUTO in names else None
    if not isinstance(chosen, Mapping):
        return References(tuple(name for name in names if name != NONE), named)
    kept = {str(goal): make_reference(str(value[0]), space) if value else None for goal, value in chosen.items()}
    return References(names, named, kept)


def make_reference(name: str, space: Space, published: float | None = None) -> Reference:
    """Return the reference of a name, YAML file or folder, with a head for the classes of the space.

    Raises:
        UsageError: The network is unknown, or cannot be built at a resolution of the space.
        RunError: The folder is not an exported network.
    """
    where = f"--against {name}"
    try:
        arch = read_architecture(name)
        _check_head(arch.head.op, space)
        classes = dict(space.head.args).get("num_classes", (1000,))[0]
        arch, own = arch.for_classes(int(classes)).with_input(space.input), arch.resolution
        for size in space.resolution:
            arch = canonical(arch.at(size))
    except SpaceError as error:
        raise UsageError(str(error).removeprefix(f"{name}: "), where=where) from error
    except RunError as error:
        raise RunError(str(error), where=where) from error
    except OSError as error:
        raise NasError(f"cannot be read: {error.strerror}", where=where) from error
    return Reference(name, arch.at(own), published)


def _check_head(op: str, space: Space) -> None:
    """Raise SpaceError if a head is no classifier although all of the space are, or no detector's likewise."""
    for kind, is_kind in (("classifier", is_classifier), ("detector", is_detector_head)):
        if not is_kind(op) and all(is_kind(operator.block) for operator in space.head.operators):
            raise SpaceError(f"is no {kind}, as the networks of this search are", key="head", value=op)


def searches_detectors(space: Space) -> bool:
    """Return whether the networks of a space are detectors."""
    return all(is_detector_head(operator.block) for operator in space.head.operators)
