"""The settings of a search: one dataclass, read from flags and from a YAML file.

The command line imports this module to list its flags. It therefore imports nothing heavy at the top.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import NasError, UsageError
from nas.training.tasks.class_weights import CLASS_WEIGHTS
from nas.training.tasks.metrics import METRICS
from nas.utils.settings import check_types, setting
from nas.utils.units import AUTO_RESOLUTION, parse_duration, parse_latency, parse_resolutions

if TYPE_CHECKING:
    from nas.study.multi_goal import Target

SOURCES = {"accuracies": "tabular", "supernet": "supernet"}
"""Settings that point an evaluator at its source, and the evaluator that each one implies."""

REDUCED = ("bfloat16", "float16", "int8")
"""The endings of the names of runtimes that do not compute in float32."""
AUTO, NONE = "auto", "none"
"""The values of `against` that are not networks: the search chooses the reference, or has none."""
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "detection": {"space": "small_detector", "metric": "AP", "finalists": 3, "finalist_seeds": 1},
}
"""The defaults of a task that differ from those of `SearchSettings`."""

_what = partial(setting, group="what to search")
_device = partial(setting, group="the device")
_how = partial(setting, group="how to search")
_accuracy = partial(setting, group="accuracies")
_where = partial(setting, group="where trials are stored and evaluated")
_BY_SPACE = "the space's own"
TRIALS = 12
"""The number of candidates without a budget."""


@dataclass(frozen=True)
class SearchSettings:
    """The settings of `nas search`. Each field's `help` documents it.

    Latencies and durations are texts with a unit. Several targets or tables are several goals of one search. 0 stands
    for the value that the space or the task provides, where `default_help` says so.
    """

    target_latency: str | list[str] = _what(
        "",
        "latency budget, for example 20ms or 0.02s; repeat it for several goals",
        metavar="T",
        parse=parse_latency,
    )
    space: str = _what(
        "mnasnet",
        "name of a shipped search space, or a YAML file",
        default_help="the space of --table, otherwise {}",
    )
    data: str = _what(
        "digits", "digits, cifar10, cifar100, fashion_mnist, or an image folder; of detection, a COCO file or folder"
    )
    data_root: str | None = _what(
        None, "folder with the named data sets; missing ones are downloaded into it", metavar="DIR"
    )
    fit: str = _what(
        "auto",
        "how images that are not square are fitted: crop, pad, stretch, or auto, which pads if a crop loses over 30%",
        choices=("auto", "crop", "pad", "stretch"),
    )
    flip: str = _what(
        "auto",
        "mirror training images at random: on, off (if left and right matter), or auto, which is off for digits only",
        choices=("auto", "on", "off"),
    )
    task: str = _what(
        "classification",
        "what the networks learn: classification or detection",
        choices=("classification", "detection"),
    )
    objective: str = _what("soft", "soft, hard, constrained or pareto")
    axes: str | None = _what(
        None,
        "axes of the pareto front, from accuracy, latency, params, macs, energy, memory",
        metavar="A,B",
        default_help="accuracy,latency",
    )
    alpha: float | None = _what(None, "exponent of the reward for latencies within the target", metavar="W")
    beta: float | None = _what(None, "exponent of the reward for latencies above the target", metavar="W")
    resolution: str = _what(
        AUTO_RESOLUTION,
        "input resolution of the networks in pixels, for example 96, or 96,128,160 to choose from; auto: the space's "
        "own, or lower if the images are smaller",
        metavar="PX",
        parse=parse_resolutions,
    )
    budget: str = _what(
        "",
        "total time of the search, for example 20min or 2h; the plan divides it and is printed first",
        metavar="TIME",
        parse=parse_duration,
        default_help="a time that suits the data; none if parts are set by hand",
    )

    runtime: str = _device("onnxruntime", "runtime to deploy to: see `nas list runtimes`")
    precision: str = _device(
        "",
        "numbers that the deployed network computes with: float32, float16, bfloat16 or int8",
        metavar="NAME",
        default_help="the runtime's, mostly float32",
    )
    threads: int = _device(1, "threads of the runtime", minimum=1)
    device: str = _device("local", "device to measure on: local or ssh://user@host:port/path/to/python", metavar="URL")
    table: str | list[str] | None = _device(
        None,
        "latency table to predict with: a name or a file; repeat it for several devices",
        default_help="the device's own",
    )
    any_device: bool = _device(False, "accept a table that was measured on another device")

    controller: str = _how("surrogate", "controller to use: see `nas list controllers`")
    trials: int = _how(
        0, "number of candidates to evaluate", minimum=0, default_help=f"what --budget allows, without it {TRIALS}"
    )
    seed: int = _how(0, "random seed of candidates and trainings", minimum=0)
    warm_start: str | None = _how(
        None, "start with the best of random candidates by a zero-cost score, for example synflow"
    )
    warm_start_samples: int = _how(64, "number of random candidates that --warm-start scores", minimum=1)
    start_from: str | list[str] | None = _how(
        None, "start from the results of a run folder, or from a known network; repeatable", metavar="X"
    )
    fidelity: str = _how(
        "full",
        "full, halving or hyperband: stop trainings that fall behind",
        choices=("full", "halving", "hyperband"),
    )
    eta: int = _how(2, "one in N candidates continues after each rung", minimum=2)
    min_epochs: int = _how(1, "epochs before the first rung", minimum=1)

    evaluator: str = _accuracy(
        "proxy_training", "evaluator to use: see `nas list evaluators`, or package.module:function"
    )
    accuracies: str | None = _accuracy(
        None, "CSV or Parquet table of known accuracies, or a run folder, to search in", metavar="FILE"
    )
    supernet: str | None = _accuracy(None, "folder of a trained supernet that evaluates the candidates", metavar="DIR")
    supernet_epochs: int = _accuracy(
        0, "epochs of the supernet that --evaluator supernet trains", minimum=0, default_help=_BY_SPACE
    )
    reliability: float = _accuracy(
        0.7,
        "reliability that the candidates' accuracies should have, from 0 to 1: the pilot looks for the cheapest "
        "evaluation that has it",
        minimum=0,
    )
    proxy_resolution: int = _accuracy(
        0,
        "input resolution of the candidates' short training, in pixels",
        minimum=0,
        default_help=_BY_SPACE,
    )
    proxy_epochs: int = _accuracy(0, "epochs of the candidates' short training", minimum=0, default_help=_BY_SPACE)
    proxy_images: int = _accuracy(0, "images of the candidates' short training", minimum=0, default_help=_BY_SPACE)
    metric: str = _accuracy(
        "accuracy",
        "what ranks networks and is reported on the test images: accuracy, balanced_accuracy or macro_f1; of detection "
        "AP, its default, or AP50",
        choices=(*METRICS, "AP", "AP50"),
    )
    class_weights: str = _accuracy(
        "none",
        "weights of the classes in the training loss: none, or balanced for inverse to the number of images",
        choices=tuple(CLASS_WEIGHTS),
    )
    weights: str | None = _accuracy(
        None,
        "pretrained weights that candidates, winner and references start from: a run or exported folder, a file, or "
        "torchvision",
        metavar="X",
        default_help="random weights",
    )
    finalists: int = _accuracy(
        5, "largest number of candidates to evaluate again before the winner is chosen", minimum=2
    )
    finalist_seeds: int = _accuracy(
        2, "rounds in which finalists are evaluated again, each with a new seed; 0 for none", minimum=0
    )
    train_finalists: int = _accuracy(
        0, "train the best N candidates, for evaluators that do not train; 0 for none", minimum=0
    )
    final_epochs: int = _accuracy(
        0,
        "epochs of the winner's training at the lowest resolution",
        minimum=0,
        default_help=_BY_SPACE,
    )
    final_images: int = _accuracy(
        0,
        "images per epoch of the winner's training at the deployed resolution",
        minimum=0,
        default_help=_BY_SPACE,
    )

    final_branches: int = _accuracy(
        0,
        "parallel k x k convolutions beside each one while winner and references train, folded at the end",
        minimum=0,
        default_help=_BY_SPACE,
    )
    final_seeds: int = _accuracy(
        1,
        "seeds to train the winner and its references with; all are tested, the best by validation is exported",
        minimum=1,
    )

    against: str | list[str] = _accuracy(
        AUTO,
        "network to train and test as the winner: a name, YAML file or folder; auto, the best one published that holds "
        "the target; or none; repeatable",
        metavar="NAME",
    )

    run: str | None = _where(
        None,
        "run folder; the same command continues there, and several processes may share it",
        metavar="DIR",
        default_help="runs/SPACE-DATA-TARGET-...",
    )
    storage: str | None = _where(
        None,
        "database for the trials, for example sqlite:///runs.db",
        metavar="URL",
        default_help="a journal in the run folder",
    )
    worker: bool = _where(False, "only evaluate candidates of a shared study; other processes choose the winner")
    retry_failed: bool = _where(False, "evaluate failed candidates again before new ones")
    workers: int = _where(0, "local processes that evaluate candidates", minimum=0, default_help="{}, this process")
    trial_timeout: str = _where(
        "",
        "time limit for each candidate, for example 30min; implies --workers 1",
        metavar="T",
        parse=parse_duration,
    )
    ray: str | None = _where(
        None,
        "evaluate on a Ray cluster: auto, host:port, or no ADDRESS for a cluster on this machine",
        metavar="ADDRESS",
        without_value="local",
    )
    ray_cpus: float = _where(1.0, "processors for each candidate on Ray", metavar="N")
    ray_gpus: float = _where(0.0, "GPUs for each candidate on Ray; fractions share one", metavar="N")

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the latency tables; empty for the device's own table."""
        return _texts(self.table)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target of each goal. Raises UsageError for missing or invalid targets, or a wrong number of tables."""
        from nas.study.multi_goal import make_targets

        if not _texts(self.target_latency):
            raise UsageError("is required, for example 20ms or 0.02s", key="target_latency")
        return make_targets([parse_latency(text) for text in _texts(self.target_latency)], self.tables)

    @property
    def front_axes(self) -> tuple[str, ...]:
        """The axes of the Pareto front. Raises UsageError."""
        from nas.study.multi_goal import parse_axes
        from nas.study.objectives import DEFAULT_AXES

        return parse_axes(self.axes) if self.axes else DEFAULT_AXES

    @property
    def source(self) -> Path | None:
        """The evaluator's source: a table of accuracies or a supernet's folder."""
        given = self.accuracies or self.supernet
        return Path(given).expanduser() if given else None

    @property
    def starts(self) -> list[str]:
        """The distinct run folders and networks to start from. Raises UsageError for an empty name."""
        given = [self.start_from] if isinstance(self.start_from, str) else self.start_from or []
        for name in given:
            if not isinstance(name, str) or not name:
                raise UsageError("must be a run folder, or a network's name or YAML", key="start_from", value=name)
        return list(dict.fromkeys(given))

    @property
    def total_s(self) -> float | None:
        """The total time in seconds, None if it is not given. Raises UsageError."""
        return parse_duration(self.budget, "budget") if self.budget else None

    @property
    def references(self) -> tuple[str, ...]:
        """The distinct values of --against. Raises UsageError for an empty name, or for "none" with others."""
        given = [self.against] if isinstance(self.against, str) else self.against
        for name in given:
            if not isinstance(name, str) or not name:
                raise UsageError("must be a network's name, YAML file or folder", key="against", value=name)
        if NONE in given and set(given) != {NONE}:
            other = next(name for name in given if name != NONE)
            raise UsageError(f"'{NONE}' excludes other networks", key="against", value=other)
        return tuple(dict.fromkeys(given))

    @property
    def limit_s(self) -> float | None:
        """The time limit for each candidate in seconds, None without a limit. Raises UsageError."""
        return parse_duration(self.trial_timeout, "trial_timeout") if self.trial_timeout else None

    @property
    def folder(self) -> Path:
        """The run folder: --run, or a name made from the settings."""
        if self.run:
            return Path(self.run).expanduser()
        evaluator = "" if self.evaluator == SearchSettings.evaluator else f"-{_as_name(self.evaluator)}"
        target = "-".join(dict.fromkeys(f"{target.ms:g}ms" for target in self.targets))
        if len(self.tables) > 1:
            target += "-" + "-".join(_as_name(Path(name).stem) for name in self.tables)
        space, data = (_as_name(Path(name).stem) for name in (self.space, self.data))
        given = next((each for each in REDUCED if self.runtime.endswith(f"_{each}")), "")
        precision = f"-{given}" if given else ""
        return Path("runs") / f"{space}-{data}-{target}-{self.objective}{evaluator}{precision}-seed{self.seed}"


def _texts(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def _as_name(text: str) -> str:
    """Return a text with all characters replaced that a file name should not have."""
    return re.sub(r"\W+", "_", text)


def recorded_settings(settings: SearchSettings) -> dict[str, Any]:
    """Return the settings as results record them: without the password of a database. Raises RunError."""
    from nas.study.storage import masked

    return {**dataclasses.asdict(settings), "storage": masked(settings.storage) if settings.storage else None}


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of an experiment file. Raises NasError for unknown names and wrong types."""
    from nas.spaces.yaml_files import read_yaml

    data = read_yaml(Path(path).expanduser())
    if not isinstance(data, Mapping):
        raise NasError("an experiment is a mapping of settings to values", where=path, value=data)
    if isinstance(data.get("flip"), bool):  # in YAML, on and off are booleans
        data = {**data, "flip": "on" if data["flip"] else "off"}
    if isinstance(sizes := data.get("resolution"), int | list) and not isinstance(sizes, bool):
        data = {**data, "resolution": ",".join(map(str, sizes if isinstance(sizes, list) else [sizes]))}
    check_types(SearchSettings, data, path)
    return dict(data)


def make_settings(given: Mapping[str, Any]) -> SearchSettings:
    """Return the settings with what they imply: the evaluator, a table's space, the runtime of a precision."""
    settings = with_implied(given)
    if (table := _texts(settings.get("table"))) and "space" not in settings:
        from nas.latency.catalog import open_named

        settings["space"] = str(open_named(table[0]).header.get("space", SearchSettings.space))
    if precision := settings.get("precision"):
        from nas.devices.runtimes import with_precision

        settings["runtime"] = with_precision(settings.get("runtime", SearchSettings.runtime), precision)
    return SearchSettings(**{**TASK_DEFAULTS.get(settings.get("task", ""), {}), **settings})


def task_default(task: str, name: str) -> Any:
    """Return the default of the setting `name` for a task."""
    return TASK_DEFAULTS.get(task, {}).get(name, getattr(SearchSettings, name))


def with_implied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, with the evaluator that `accuracies` or `supernet` implies unless one is given.

    A list of one value becomes that value: both spellings are the same run.
    """
    settings = {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in settings.items()
    }
    implied = [evaluator for key, evaluator in SOURCES.items() if settings.get(key)]
    return {"evaluator": implied[0], **settings} if implied else dict(settings)
