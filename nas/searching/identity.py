"""The identity of a run: the settings that decide its trials. A run folder holds trials of one identity only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from nas.devices.client import LOCAL
from nas.latency.catalog import find_table
from nas.latency.profiler import table_header
from nas.latency.published import is_published
from nas.latency.table import IDENTITY, LatencyTable
from nas.searching.settings import SearchSettings
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.study.multi_goal import listed_ms
from nas.study.objectives import DEFAULT_AXES
from nas.study.storage import TABLE_DIGEST
from nas.training.tasks.classification import Classification


def settings_identity(settings: SearchSettings, space: Space, task: Classification) -> dict[str, Any]:
    """Return the part of a run's identity that its settings, space and data decide.

    A value is None where older run folders lack the key.
    """
    stops_early = settings.fidelity != "full"
    return {
        "space": settings.space,
        "space_digest": space.digest,
        "data": task.data.name,
        "train_images": len(task.data.train),
        **task.fit_setting,
        "target_latency_ms": listed_ms(settings.targets),
        "objective": settings.objective,
        "alpha": settings.alpha,
        "beta": settings.beta,
        "runtime": settings.runtime,
        "threads": settings.threads,
        "device": None if settings.device == LOCAL else settings.device,
        "controller": settings.controller,
        "evaluator": settings.evaluator,
        "seed": settings.seed,
        **_optional_identity(settings),
        **{key: getattr(settings, key) if stops_early else None for key in ("fidelity", "eta", "min_epochs")},
    }


def _optional_identity(settings: SearchSettings) -> dict[str, Any]:
    """Return the keys that older run folders lack. Settings that are not used are left out."""
    found: dict[str, Any] = {}
    if source := settings.source:
        found["source"] = str(source)
        if source.is_file():
            found["source_digest"] = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    if settings.front_axes != DEFAULT_AXES:
        found["axes"] = ",".join(settings.front_axes)
    if settings.warm_start:
        found |= {"warm_start": settings.warm_start, "warm_start_samples": settings.warm_start_samples}
    return found


def table_source_identity(settings: SearchSettings) -> dict[str, Any]:
    """Return which published tables a run uses; several tables are all named.

    A run in a shared database without --table also records the device: other machines measure other latencies.
    """
    if settings.storage and not settings.tables:
        header = table_header(settings.runtime, settings.threads, settings.device)
        return {"measured_on": {key: header[key] for key in IDENTITY}}
    tables = [LatencyTable.open(find_table(name)) for name in settings.tables]
    names = [f"{table.path.stem}: {table.header.get('source')}" for table in tables]
    published = [is_published(table) for table in tables]
    if len(tables) > 1:
        named = zip(tables, names, published, strict=True)
        return {"tables": [name if is_public else table.path.stem for table, name, is_public in named]}
    return {"published_table": names[0]} if published == [True] else {}


def given_tables_identity(settings: SearchSettings, space: Space) -> dict[str, Any]:
    """Return the digests of the tables that --table names, before anything is measured; {} without --table."""
    if not settings.tables:
        return {}
    layers = reachable(space)
    return digests_identity([LatencyTable.open(find_table(name)).digest(layers, space.key) for name in settings.tables])


def digests_identity(digests: Sequence[str]) -> dict[str, Any]:
    """Return the tables' digests as a part of the identity: one study never mixes the latencies of two tables."""
    return {TABLE_DIGEST: digests[0] if len(digests) == 1 else list(digests)}
