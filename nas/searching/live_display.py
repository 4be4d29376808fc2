"""The progress of a running search: a live display on a terminal, one line per trial in a log.

`SearchProgress` holds the facts, `view` draws them, and `track_progress` keeps them up to date from the study.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nas.study.objectives import Goal, Objective
from nas.study.pareto import Front
from nas.study.ranking import ReferencePoint, gains
from nas.study.study import Study, Trial, TrialState
from nas.training.tasks.metrics import spell
from nas.utils.reporting import Advance, Reporter
from nas.utils.units import format_duration, format_latency

if TYPE_CHECKING:
    from rich.console import Group

MANY = 8
"""The display lists this many running candidates and counts the others."""


@dataclass(frozen=True)
class SearchProgress:
    """The facts that the display shows.

    Attributes:
        done: How many candidates were tried.
        total: How many the search tries.
        epochs: The epochs of a full training.
        trials_per_minute: The rate of this command; None before its first trial ended.
        bests: Pairs of a goal's name and a description of its best trial.
        front: The number of networks on the front and its hypervolume; None without a front.
        running: The epochs that each running candidate has completed, by its number from 1.
        stopped: How many candidates early stopping ended.
        failed: How many candidates failed.
        last: A description of the last trial.
    """

    done: int
    total: int
    epochs: int = 1
    trials_per_minute: float | None = None
    bests: tuple[tuple[str, str], ...] = ()
    front: tuple[int, float] | None = None
    running: Mapping[int, int] = field(default_factory=dict)
    stopped: int = 0
    failed: int = 0
    last: str = ""

    @property
    def seconds_left(self) -> float | None:
        """The time left at this rate; None before the first trial ended."""
        return 60 * (self.total - self.done) / self.trials_per_minute if self.trials_per_minute else None


def view(progress: SearchProgress) -> Group:
    """Return the display for rich: a progress bar, and one line per fact below it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 2))
    completed = min(progress.done, progress.total)
    bar.add_row("searching", ProgressBar(progress.total, completed, width=30), describe_pace(progress))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for name, words in progress.bests or (("", "nothing yet"),):
        lines.add_row(Text(f"best {name}".strip(), style="bold"), Text(words))
    if progress.front:
        count, volume = progress.front
        lines.add_row("front", Text(f"{count} {'network' if count == 1 else 'networks'}, hypervolume {volume:.4f}"))
    if progress.running:
        lines.add_row("running", Text(list_running(progress)))
    if progress.stopped or progress.failed:
        lines.add_row("so far", Text(f"{progress.stopped} stopped early, {progress.failed} failed"))
    if progress.last:
        lines.add_row("last", Text(progress.last, style="dim"))
    return Group(bar, lines)


def describe_pace(progress: SearchProgress) -> str:
    """Return the count, the rate and the time left: "37/120, 4.2 trials/min, 20 min left"."""
    words = [f"{progress.done}/{progress.total}"]
    if progress.trials_per_minute:
        words.append(f"{progress.trials_per_minute:.3g} trials/min")
    if progress.seconds_left:
        words.append(f"{format_duration(progress.seconds_left)} left")
    return ", ".join(words)


def list_running(progress: SearchProgress) -> str:
    """Return the running candidates: "38 (epoch 2 of 4), 39"."""
    most = progress.epochs
    found = [
        f"{number}" + (f" (epoch {min(epochs + 1, most)} of {most})" if most > 1 else "")
        for number, epochs in sorted(progress.running.items())
    ]
    more = len(found) - MANY
    return ", ".join(found[:MANY]) + (f" and {more} more" if more > 0 else "")


class ProgressTracker:
    """Keeps the progress of a search up to date, for one thread. Use `track_progress` to get one.

    It reads each trial of the study once.
    """

    def __init__(
        self,
        objective: Objective,
        study: Study,
        progress: SearchProgress,
        reference: ReferencePoint | None,
        advance: Advance | None,
        reporter: Reporter,
        metric: str,
    ):
        self.progress = progress
        self._objective, self._study, self._reference, self._metric = objective, study, reference, metric
        self._advance, self._reporter = advance, reporter
        self._front, self._read, self._shown = Front(), 0, 0
        self._bests: dict[Goal, Trial] = {}
        self._start_s, self._count_at_start = time.monotonic(), study.count
        self.update()

    def running(self, number: int, epochs: int = 0) -> None:
        """Record that the candidate `number`, from 0, has completed this many epochs."""
        self.progress = replace(self.progress, running={**self.progress.running, number + 1: epochs})

    def ended(self, number: int, trial: Trial | None = None) -> None:
        """Record that the candidate `number`, from 0, ended in this process. `trial` is None if it failed."""
        others = {other: epochs for other, epochs in self.progress.running.items() if other != number + 1}
        self.progress = replace(self.progress, running=others)
        self.update()
        if trial is None:
            return
        words = f"trial {number + 1}: {describe(trial, self._objective, self._metric)}"
        if trial.stopped_at:
            words += f", stopped after {trial.stopped_at} of {self.progress.epochs} epochs"
        self.progress = replace(self.progress, last=words)
        if not self._reporter.live:
            best = "; ".join(f"{name} {of}".strip() for name, of in self.progress.bests)
            self._reporter.say(f"{words}; best so far {best}" if best else words)

    def update(self) -> None:
        """Take in the trials that ended since the last update, in any process."""
        study = self._study
        complete = [trial for trial in study.ended[self._read :] if trial.state is TrialState.COMPLETE]
        self._read = len(study.ended)
        self._update_bests(complete)
        if self._reference:
            for trial in complete:
                self._front.add(gains(trial.metrics, self._objective.axes, self._reference))
        ended_now, taken_min = study.count - self._count_at_start, (time.monotonic() - self._start_s) / 60
        self.progress = replace(
            self.progress,
            done=study.count,
            trials_per_minute=ended_now / taken_min if ended_now and taken_min else None,
            bests=tuple((goal.name, describe(trial, goal, self._metric)) for goal, trial in self._bests.items()),
            front=(len(self._front.points), self._front.volume) if self._reference else None,
            stopped=len(study.stopped),
            failed=len(study.failed),
        )
        if self._advance and study.count > self._shown:
            self._advance(study.count - self._shown)
            self._shown = study.count

    def _update_bests(self, complete: Sequence[Trial]) -> None:
        """Keep the best trial for each goal. If the study has repeats, compare all trials again."""
        for goal in self._objective.goals if complete else ():
            if self._study.repeats:
                self._bests[goal] = incumbent(self._study, goal)
                continue
            for trial in complete:
                if goal not in self._bests or goal.score(trial.metrics) > goal.score(self._bests[goal].metrics):
                    self._bests[goal] = trial


@contextlib.contextmanager
def track_progress(
    objective: Objective,
    study: Study,
    trials: int,
    epochs: int,
    reporter: Reporter,
    reference: ReferencePoint | None = None,
    metric: str = "accuracy",
) -> Iterator[ProgressTracker]:
    """Show the progress of a search, and yield the tracker to report events to.

    On a terminal, a live display stays below the messages until the end. Elsewhere, each trial is one line.

    Args:
        objective: The objective of the search.
        study: Its study.
        trials: How many candidates the search tries.
        epochs: The epochs of a full training.
        reporter: Prints the messages and the display.
        reference: The reference point of the front's volume; None shows no front.
        metric: The metric of the accuracies.
    """
    progress = SearchProgress(study.count, trials, epochs)
    if reporter.live:
        tracker = ProgressTracker(objective, study, progress, reference, None, reporter, metric)
        with reporter.display(lambda: view(tracker.progress)):
            yield tracker
    else:
        with reporter.task("searching", trials) as advance:
            yield ProgressTracker(objective, study, progress, reference, advance, reporter, metric)


def incumbent(study: Study, goal: Goal | Objective) -> Trial:
    """Return the best complete trial, by its estimated accuracy.

    If finalists were evaluated again earlier in this run, the noise is known, and a value that is high by luck counts
    for less. Controllers still learn the raw values, since TPE has no model of noise.
    """
    noise, accuracies = study.noise, study.accuracies()

    def score(trial: Trial) -> float:
        known = accuracies[trial.digest]
        estimate = noise.estimate(known) if noise else known[0]
        return goal.score(replace(trial.metrics, accuracy=estimate))

    return max(study.trials, key=score)


def describe(trial: Trial, of: Goal | Objective, metric: str = "accuracy") -> str:
    """Return a trial in words: its accuracy or other metric, its latency, and its score for one or all goals."""
    goals = (of,) if isinstance(of, Goal) else of.goals
    latencies = " / ".join(dict.fromkeys(format_latency(trial.metrics.on(goal.device).latency_ms) for goal in goals))
    scores = " / ".join(f"{goal.score(trial.metrics):.3f}" for goal in goals)
    name = "" if metric == "accuracy" else f"{spell(metric)} "
    return f"{name}{trial.metrics.accuracy:.1%} at {latencies} (score {scores})"
