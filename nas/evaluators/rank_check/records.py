"""How far an evaluator was found to be trusted: the figures of `nas check-proxy`, kept where a search finds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.evaluators.rank_check.rank_correlation import Agreement
from nas.utils.files import write_json
from nas.utils.paths import user_cache

KEPT = ("name", "agreement", "cheaper")
PLACES = ("supernet", "accuracies")
"""Settings that say where a thing lies, not what it is."""


def remember(check: Mapping[str, Any]) -> None:
    """Keep the figures of a check for searches in the same space, on the same data, by the same evaluators."""
    reference = {key: check["reference"][key] for key in ("agreement", "noise")}
    for judged in check["evaluators"]:
        if judged["settings"] is None:
            continue
        path = _path(check["space"], check["settings"]["data"], judged["settings"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**{key: judged[key] for key in KEPT}, "reference": reference, "date": check["date"]})


def find_record(space_key: str, data: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a check on this machine found of an evaluator of these settings, None where there was none."""
    try:
        found = json.loads(_path(space_key, data, settings).read_text(encoding="utf-8"))
        describe_record(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found)


def describe_record(found: Mapping[str, Any]) -> str:
    """Return the figures as a part of a sentence."""
    said = f"{Agreement.from_dict(found['agreement'])} against {found['agreement']['networks']} trained networks"
    reference = found["reference"]["agreement"]
    return said + (f", whose seeds agree at {reference['kendall']:.2f}" if reference else "")


def _path(space_key: str, data: str, settings: Mapping[str, Any]) -> Path:
    what = {key: value for key, value in settings.items() if key not in PLACES}
    text = json.dumps([space_key, data, what], sort_keys=True)
    return user_cache() / "checks" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
