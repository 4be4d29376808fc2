"""The identity of a run: the settings that decide its trials. A run folder holds trials of one identity only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.controllers import CONTROLLERS
from nas.devices.client import LOCAL
from nas.evaluators.registry import evaluator_modules
from nas.evaluators.supernet.evaluator import supernet_files
from nas.latency.catalog import find_table
from nas.latency.profiler import table_header
from nas.latency.published import is_published
from nas.latency.table import IDENTITY, LatencyTable
from nas.networks.block_schema import block_sources
from nas.searching.evaluation import pretrained_network
from nas.searching.settings import SearchSettings
from nas.spaces.automaton import block_names, reachable
from nas.spaces.search_space import Space
from nas.study.multi_goal import listed_ms
from nas.study.objectives import DEFAULT_AXES, OBJECTIVES
from nas.study.study import JOURNAL
from nas.study.trial_store import find
from nas.training.tasks.base import Task
from nas.utils.registry import plugin_module
from nas.utils.reporting import Reporter
from nas.utils.run_identity import RETRIED_SOURCE, TABLE_DIGEST, TABLE_FILE, content_digest, difference
from nas.utils.source_code import source_digests


def settings_identity(settings: SearchSettings, space: Space, task: Task) -> dict[str, Any]:
    """Return the part of a run's identity that its settings, space and data decide.

    A value is None where older run folders lack the key.
    """
    stops_early = settings.fidelity != "full"
    return {
        "space": settings.space,
        "space_digest": space.digest,
        "data": task.data.name,
        "train_images": len(task.data.train),
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
        **task.settings,
        **_trainings(space),
        **_optional_identity(settings),
        **_weights_identity(settings, space),
        **plugin_identity(settings),
        **block_sources(block_names(space)),
        **{key: getattr(settings, key) if stops_early else None for key in ("fidelity", "eta", "min_epochs")},
    }


def _optional_identity(settings: SearchSettings) -> dict[str, Any]:
    """Return the keys that older run folders lack. Settings that are not used are left out."""
    found: dict[str, Any] = {}
    if source := settings.source:
        found |= {"source": str(source), **source_identity(source)}
    if settings.front_axes != DEFAULT_AXES:
        found["axes"] = ",".join(settings.front_axes)
    if settings.warm_start:
        found |= {"warm_start": settings.warm_start, "warm_start_samples": settings.warm_start_samples}
    return found


def _trainings(space: Space) -> dict[str, int]:
    """Return the settings of trainings that are a part of the space's digest, so that a message can name them."""
    proxy, final = space.proxy, space.final
    return {
        "proxy_resolution": proxy.resolution,
        "proxy_epochs": proxy.epochs,
        "proxy_images": proxy.images,
        "final_epochs": final.epochs,
        "final_images": final.images,
        **({"full_epochs": final.full_epochs} if final.full_epochs else {}),
        **({"final_branches": final.branches} if final.branches else {}),
    }


def plugin_identity(settings: SearchSettings) -> dict[str, Any]:
    """Return the digests of the source files of a user's evaluator, controller and objective, each by file.

    With --retry-failed, the evaluator may have been corrected: its digests are recorded, but not compared.
    """
    controller = plugin_module(CONTROLLERS, settings.controller, "controller")
    objective = plugin_module(OBJECTIVES, settings.objective, "objective")
    modules = {
        RETRIED_SOURCE if settings.retry_failed else "evaluator_source": evaluator_modules(settings.evaluator),
        "controller_source": (controller,) if controller else (),
        "objective_source": (objective,) if objective else (),
    }
    return {key: digests for key, names in modules.items() if (digests := source_digests(*names))}


def report_corrected_source(folder: Path, identity: Mapping[str, Any], reporter: Reporter) -> None:
    """Warn if --retry-failed continues a run with another source of the evaluator: both versions' trials stay."""
    if RETRIED_SOURCE not in identity or not (folder / JOURNAL).is_file():
        return
    stored = find(folder).attributes().get("settings") or {}
    now = {"evaluator_source": identity[RETRIED_SOURCE]}
    if stored.get("evaluator_source", now["evaluator_source"]) != now["evaluator_source"]:
        reporter.warn(f"{folder}: {difference('evaluator_source', stored, now)}; its earlier trials stay")


def source_identity(source: Path) -> dict[str, Any]:
    """Return the digest of a table of accuracies or of a supernet; that of a run folder, which may grow, by itself."""
    if source.is_file():
        return {"source_digest": content_digest([source])}
    if files := supernet_files(source):
        return {"source_digest": content_digest(files)}
    journal = source / JOURNAL
    return {"source_content": content_digest([journal])} if journal.is_file() else {}


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


def _weights_identity(settings: SearchSettings, space: Space) -> dict[str, Any]:
    """Return the flag --weights and a digest of the network that it names; {} without it. Raises NasError."""
    pretrained = pretrained_network(settings, space)
    return {"weights": settings.weights, "weights_digest": pretrained.digest} if pretrained else {}


def given_tables_identity(settings: SearchSettings, space: Space) -> dict[str, Any]:
    """Return the digests of the tables that --table names, before anything is measured; {} without --table."""
    if not settings.tables:
        return {}
    layers = reachable(space)
    tables = [LatencyTable.open(find_table(name)) for name in settings.tables]
    return digests_identity([table.digest(layers, space.key) for table in tables], [table.path for table in tables])


def digests_identity(digests: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    """Return the tables' digests as a part of the identity: one study never mixes the latencies of two tables.

    The names of the files are not compared.
    """
    files = [str(path) for path in paths]
    return {
        TABLE_DIGEST: digests[0] if len(digests) == 1 else list(digests),
        TABLE_FILE: files[0] if len(files) == 1 else files,
    }
