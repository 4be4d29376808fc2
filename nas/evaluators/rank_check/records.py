"""Records of rank checks: the results of `nas check-proxy`, stored in the user's cache for later searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.evaluators.rank_check.rank_correlation import Agreement
from nas.spaces.identity import hex_digest
from nas.utils.files import write_json
from nas.utils.paths import user_cache
from nas.utils.run_identity import FORMER_VALUES

STORED = ("name", "agreement", "cheaper")
"""The keys of an evaluator's result that a record contains."""
PATHS = ("supernet", "accuracies", "file")
"""Settings that are paths. They do not identify an evaluator."""
DEFAULTS = {"detection": {**FORMER_VALUES, "task": "detection", "metric": "AP", "fit": "pad"}}
"""The defaults of tasks that differ from `FORMER_VALUES`."""


def save_records(check: Mapping[str, Any]) -> None:
    """Store the results of a check, one record for each evaluator.

    A record applies to searches with the same space, data and evaluator settings. The metric and the class weights of
    the reference are among these settings if they are not the defaults of the task.

    Args:
        check: The contents of check.json.
    """
    reference = {key: check["reference"][key] for key in ("agreement", "noise")}
    settings = {**FORMER_VALUES, **check["settings"]}
    defaults = DEFAULTS.get(settings["task"], FORMER_VALUES)
    task_settings = {key: settings[key] for key, default in defaults.items() if settings[key] != default}
    for judged in check["evaluators"]:
        if judged["settings"] is None:
            continue
        path = _path(check["space"], check["settings"]["data"], {**judged["settings"], **task_settings})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**{key: judged[key] for key in STORED}, "reference": reference, "date": check["date"]})


def find_record(space_key: str, data: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of an evaluator, or None if it was not checked on this machine.

    Args:
        space_key: `Space.key` of the search space.
        data: The name of the data set.
        settings: `Evaluator.settings`.
    """
    try:
        found = json.loads(_path(space_key, data, settings).read_text(encoding="utf-8"))
        describe_record(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found)


def describe_record(record: Mapping[str, Any]) -> str:
    """Return the agreement of a record as text."""
    agreement, reference = Agreement.from_dict(record["agreement"]), record["reference"]["agreement"]
    text = f"{agreement} against {agreement.networks} trained networks"
    return text + (f", whose seeds agree at Kendall {reference['kendall']:.2f}" if reference else "")


def _path(space_key: str, data: str, settings: Mapping[str, Any]) -> Path:
    identity = {key: value for key, value in settings.items() if key not in PATHS}
    text = json.dumps([space_key, data, identity], sort_keys=True)
    return user_cache() / "checks" / f"{hex_digest(text)}.json"
