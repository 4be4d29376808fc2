"""Failed exports: a finished search whose winner could not be exported keeps its result, and exports it again."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from nas.errors import ExportError
from nas.networks.export import export_again, failed_folder
from nas.searching.result import missing_models, read_complete
from nas.searching.settings import SearchSettings
from nas.study.study import FINISH, RESULT
from nas.training.deployed_network import calibration_for
from nas.training.tasks.base import Task
from nas.utils.files import exclusive, write_json
from nas.utils.reporting import Reporter

KEY = "export_error"
"""The entry of a goal's result that holds the reason."""


def export_missing(settings: SearchSettings, task: Task, reporter: Reporter) -> dict[str, Any] | None:
    """Export the winners of a finished search whose export failed, and return the result.

    Returns:
        None if the search is not finished, or if the weights of a winner are missing.

    Raises:
        ExportError: The export fails again.
    """
    result = read_complete(settings, settings.trials)
    missing = missing_models(settings.folder, result) if result else []
    if result is None or not missing or not all((failed_folder(model) / "card.json").is_file() for model in missing):
        return None
    with exclusive(settings.folder / FINISH):
        for model in missing:
            reporter.say(f"exporting the network in {failed_folder(model)} again")
            export_again(model, settings.runtime, partial(calibration_for, settings.runtime, task))
        for goal in result.get("goals", [result]):
            goal.pop(KEY, None)
        write_json(settings.folder / RESULT, result)
        for checkpoints in settings.folder.glob("winner*"):
            shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def check_exported(result: dict[str, Any]) -> None:
    """Raise ExportError if the winner of a goal was not exported."""
    errors = [goal[KEY] for goal in result.get("goals", [result]) if KEY in goal]
    if errors:
        raise ExportError(errors[0])
