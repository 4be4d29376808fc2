"""The tasks by name. This is the only place that makes one from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.training.detection import box_report
from nas.training.detection.detection import Detection
from nas.training.tasks import metrics
from nas.training.tasks.base import Task
from nas.training.tasks.classification import Classification
from nas.utils.registry import lookup
from nas.utils.run_identity import FORMER_VALUES

TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification.load,
    "detection": Detection.load,
}
"""What makes a task: it takes the name of a data set, the folder of the named data sets or None, and its settings."""
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "classification": tuple(metrics.METRICS),
    "detection": tuple(box_report.METRICS),
}
"""What the networks of each task can be ranked by. No metric belongs to two tasks."""


def load_task(data: str, root: str | None, settings: Mapping[str, str]) -> Task:
    """Return the task on a data set.

    Args:
        data: A named data set or a folder.
        root: The folder of the named data sets; None: the user's cache.
        settings: The settings of the task by name, and "task", a key of `TASKS`. Missing ones have their defaults.

    Raises:
        DataError: The data set is unknown or invalid.
        UsageError: The task or a setting is unknown.
    """
    make = lookup(TASKS, settings.get("task", FORMER_VALUES["task"]), "task", "--task")
    return make(data, root, **{key: value for key, value in settings.items() if key != "task"})
