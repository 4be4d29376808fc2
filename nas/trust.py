"""How far an evaluator was found to be trusted: the figures of `nas check-proxy`, kept where a search finds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.agreement import Agreement
from nas.files import write_json
from nas.resources import user_cache

KEPT = ("name", "agreement", "cheaper")


def remember(check: Mapping[str, Any]) -> None:
    """Keep the figures of a check for searches in the same space, on the same data, by the same evaluators."""
    for judged in check["evaluators"]:
        path = _path(check["space"], check["settings"]["data"], judged["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {key: judged[key] for key in KEPT}
        reference = {key: check["reference"][key] for key in ("agreement", "noise")}
        write_json(path, {**kept, "reference": reference, "date": check["date"]})


def known(space_key: str, data: str, evaluator: str) -> dict[str, Any] | None:
    """Return what a check on this machine found of an evaluator, None where there was none."""
    try:
        found = json.loads(_path(space_key, data, evaluator).read_text(encoding="utf-8"))
        in_words(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found)


def in_words(found: Mapping[str, Any]) -> str:
    """Return the figures as a part of a sentence."""
    said = f"{Agreement.from_dict(found['agreement'])} against {found['agreement']['networks']} trainings"
    reference = found["reference"]["agreement"]
    return said + (f", which agree among themselves at {reference['kendall']:.2f}" if reference else "")


def _path(space_key: str, data: str, evaluator: str) -> Path:
    digest = hashlib.sha256(os.fsencode("\n".join((space_key, data, evaluator)))).hexdigest()[:16]
    return user_cache() / "checks" / f"{digest}.json"
