"""The input resolutions of a search's networks: the given ones, or those of the space, lowered to suit the images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.architecture import RGB_SQUARE
from nas.errors import RunError, UsageError
from nas.evaluators.supernet.evaluator import BANK
from nas.latency.catalog import open_named
from nas.latency.profiler import table_header
from nas.latency.published import is_published
from nas.searching.resolution.proposal import Sizes, image_side, proposed
from nas.searching.settings import SearchSettings
from nas.spaces.resolutions import Size, at_resolutions, build_problem, sizes_of, with_sizes
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.storage import stored_settings
from nas.training.tasks.base import Task
from nas.utils.reporting import Reporter
from nas.utils.run_identity import RESOLUTION
from nas.utils.units import parse_resolutions


def with_resolution(
    own: Space, settings: SearchSettings, task: Task, stored: Mapping[str, Any] | None, reporter: Reporter
) -> Space:
    """Return a space with the resolutions of the search.

    Args:
        own: The space of the settings, with the resolutions of its file.
        settings: Their `resolution` lists the resolutions, or is "auto".
        task: The images.
        stored: The settings of the run in the folder of the search; None for a new run. "auto" keeps its resolutions.
        reporter: Prints which resolutions "auto" selects, and why.

    Raises:
        UsageError: A network of the space cannot be built for a given resolution, or the given resolution of the proxy
            is above that of the networks.
        TableError: A table of --table cannot be read.
    """
    given = parse_resolutions(settings.resolution)
    space = at_resolutions(own, given)
    if not given:
        space = with_sizes(own, _selected(own, settings, task, stored, reporter))
    return _with_proxy(space, own, settings, is_new=stored is None)


def resolution_identity(space: Space, own: Space) -> dict[str, Any]:
    """Return the resolutions of a search in `space` as a part of a run's identity.

    Those of the space's file, of `own`, are left out: runs from before there was a choice lack them.
    """
    return {} if sizes_of(space) == sizes_of(own) else {RESOLUTION: spelled_sizes(space, own)}


def spelled_sizes(space: Space, own: Space) -> list[Size]:
    """Return the sizes of a space so that `with_sizes` of `own`, the space of its file, gives them again.

    A number would be a height there if the file has rectangles, so that squares are spelled "160x160".
    """
    is_square = own.input.aspect == RGB_SQUARE.aspect
    return [size if is_square or isinstance(size, str) else f"{size}x{size}" for size in sizes_of(space)]


def space_of_run(stored: Mapping[str, Any]) -> Space:
    """Return the space of a run with the settings `stored`, without its classes. Raises SpaceError."""
    space = load_space(str(stored["space"]))
    return with_sizes(space, stored_resolution(space, stored))


def stored_resolution(own: Space, stored: Mapping[str, Any]) -> Sizes:
    """Return the resolutions of a run with the settings `stored`; `own` is the space of its file."""
    return tuple(stored.get(RESOLUTION) or sizes_of(own))


def _selected(
    own: Space, settings: SearchSettings, task: Task, stored: Mapping[str, Any] | None, reporter: Reporter
) -> Sizes:
    """Return the resolutions that "auto" stands for. Report them, unless they are what the space's file has anyway."""
    if stored is not None and RESOLUTION in stored:
        return stored_resolution(own, stored)
    image_px, unchanged = image_side(task), tuple(sizes_of(own))
    is_square = own.input.aspect == RGB_SQUARE.aspect
    sizes = proposed(own.resolution, image_px) if is_square and image_px is not None else unchanged
    kept = _kept(own, settings, stored, sizes)
    if kept and kept[0] != sizes:
        reporter.say(f"networks are for {_listed(kept[0])} px, {kept[1]}; --resolution sets another")
    elif sizes != unchanged:
        instead = f"networks are for {_listed(sizes)} px instead of the space's {_listed(unchanged)}"
        reporter.say(f"images are about {image_px or 0:.0f} px: {instead}; --resolution sets another")
    return kept[0] if kept else sizes


def _kept(
    own: Space, settings: SearchSettings, stored: Mapping[str, Any] | None, sizes: Sizes
) -> tuple[Sizes, str] | None:
    """Return the resolutions that a search keeps although its images propose `sizes`, and why; None if they decide."""
    if stored is not None:
        return tuple(sizes_of(own)), "as when this run began"
    if settings.source:
        flag = "--accuracies" if settings.accuracies else "--supernet"
        return _resolution_of(settings.source, own) or tuple(sizes_of(own)), f"as in {flag} {settings.source}"
    for name in settings.starts:
        if found := _resolution_of(Path(name).expanduser(), own):
            return found, f"as in --start-from {name}"
    return None if sizes == tuple(sizes_of(own)) else next(_obstacles(own, settings, sizes), None)


def _resolution_of(source: Path, own: Space) -> Sizes | None:
    """Return the resolutions of the run that a folder, a supernet or a result.json belongs to; None without a run.

    A run that cannot be read has none: whoever needs its trials reports it.
    """
    is_part = source.suffix == ".json" or (source / BANK).is_file()
    for folder in (source, source.parent) if is_part else (source,):
        with contextlib.suppress(RunError):
            if folder.is_dir() and (stored := stored_settings(folder)) is not None:
                return stored_resolution(own, stored)
    return None


def _obstacles(own: Space, settings: SearchSettings, sizes: Sizes) -> Iterator[tuple[Sizes, str]]:
    """Yield the resolutions of the space's file, and why its networks cannot have the resolutions `sizes` instead."""
    for name in settings.tables:
        table = open_named(name)
        here = table_header(settings.runtime, settings.threads, settings.device)
        if is_published(table) or table.differences(here):
            yield tuple(sizes_of(own)), f"because --table {name} cannot be extended here"
    for size in sizes:
        if problem := build_problem(own, int(size)):
            yield tuple(sizes_of(own)), f"because networks of '{own.name}' cannot be built for {size} px ({problem})"


def _with_proxy(space: Space, own: Space, settings: SearchSettings, is_new: bool) -> Space:
    """Return the space with a proxy at or below its lowest resolution. Raises UsageError for a given one above it."""
    lowest, proxy = min(space.resolution), space.proxy
    if proxy.resolution <= lowest or (settings.proxy_resolution and not is_new):
        return space
    if settings.proxy_resolution:
        rule = f"must be at most the resolution of the networks, {lowest}"
        raise UsageError(rule, key="proxy_resolution", value=settings.proxy_resolution)
    return space if sizes_of(space) == sizes_of(own) else replace(space, proxy=replace(proxy, resolution=lowest))


def _listed(sizes: Sizes) -> str:
    return ", ".join(map(str, sizes))
