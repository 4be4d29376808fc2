"""What a person sees of a search that runs: on a terminal one display that is kept up to date, in logs a line a trial.

The display is a picture of plain facts (`SearchProgress`, `view`); `watching` keeps the facts and knows the study.
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
from nas.study.study import Study, Trial
from nas.utils.reporting import Advance, Reporter
from nas.utils.units import format_duration, format_latency

if TYPE_CHECKING:
    from rich.console import Group

MANY = 8
"""So many candidates under way are listed, the others counted."""


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is.

    `bests` are (goal's name, what is said of its best) pairs; `front` is (networks, hypervolume); `under_way` maps a
    candidate's number, from 1, to the epochs that it had, of `epochs`.
    """

    done: int
    total: int
    epochs: int = 1
    trials_per_minute: float | None = None
    bests: tuple[tuple[str, str], ...] = ()
    front: tuple[int, float] | None = None
    under_way: Mapping[int, int] = field(default_factory=dict)
    stopped: int = 0
    failed: int = 0
    last: str = ""

    @property
    def seconds_left(self) -> float | None:
        """The time that the other trials take at this rate; None before the first ended."""
        return 60 * (self.total - self.done) / self.trials_per_minute if self.trials_per_minute else None


def view(standing: SearchProgress) -> Group:
    """Return the facts as something that rich draws: a bar, and below it a line for each thing to know."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 2))
    bar.add_row("searching", ProgressBar(standing.total, min(standing.done, standing.total), width=30), pace(standing))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for name, words in standing.bests or (("", "nothing yet"),):
        lines.add_row(Text(f"best {name}".strip(), style="bold"), Text(words))
    if standing.front:
        count, share = standing.front
        lines.add_row("front", Text(f"{count} {'network' if count == 1 else 'networks'}, hypervolume {share:.4f}"))
    if standing.under_way:
        lines.add_row("under way", Text(in_work(standing)))
    if standing.stopped or standing.failed:
        lines.add_row("so far", Text(f"{standing.stopped} stopped early, {standing.failed} failed"))
    if standing.last:
        lines.add_row("last", Text(standing.last, style="dim"))
    return Group(bar, lines)


def pace(standing: SearchProgress) -> str:
    """Return how many are done, how fast, and the time left, as "37/120, 4.2 trials/min, 20 min left"."""
    words = [f"{standing.done}/{standing.total}"]
    if standing.trials_per_minute:
        words.append(f"{standing.trials_per_minute:.3g} trials/min")
    if standing.seconds_left:
        words.append(f"{format_duration(standing.seconds_left)} left")
    return ", ".join(words)


def in_work(standing: SearchProgress) -> str:
    """Return the candidates under way, as "38 (epoch 2 of 4), 39"."""
    most = standing.epochs
    found = [
        f"{number}" + (f" (epoch {min(epochs + 1, most)} of {most})" if most > 1 else "")
        for number, epochs in sorted(standing.under_way.items())
    ]
    more = len(found) - MANY
    return ", ".join(found[:MANY]) + (f" and {more} more" if more > 0 else "")


class ProgressTracker:
    """Keeps the facts of a search, of which each trial is looked at once; made by `watching`. For one thread."""

    def __init__(
        self, objective: Objective, study: Study, standing: SearchProgress, reference: ReferencePoint | None,
        show: Advance | None, reporter: Reporter,
    ):  # fmt: skip
        self.standing = standing
        self._objective, self._study, self._reference = objective, study, reference
        self._advance, self._reporter = show, reporter
        self._front, self._looked, self._shown = Front(), 0, 0
        self._bests: dict[Goal, Trial] = {}
        self._began, self._before = time.monotonic(), study.count
        self.look()

    def under_way(self, number: int, epochs: int = 0) -> None:
        """Take in that candidate `number`, from 0, had so many epochs."""
        self.standing = replace(self.standing, under_way={**self.standing.under_way, number + 1: epochs})

    def ended(self, number: int, trial: Trial | None = None) -> None:
        """Take in that candidate `number`, from 0, ended here, with what it became; None where it failed."""
        others = {other: epochs for other, epochs in self.standing.under_way.items() if other != number + 1}
        self.standing = replace(self.standing, under_way=others)
        self.look()
        if trial is None:
            return
        words = f"trial {number + 1}: {describe(trial, self._objective)}"
        if trial.stopped_at:
            words += f", stopped after {trial.stopped_at} of {self.standing.epochs} epochs"
        self.standing = replace(self.standing, last=words)
        if not self._reporter.live:
            best = "; ".join(f"{name} {of}".strip() for name, of in self.standing.bests)
            self._reporter.say(f"{words}; best so far {best}" if best else words)

    def look(self) -> None:
        """Take in what ended since the last look, here or in another process."""
        study = self._study
        fresh = [ended for ended in study.ended[self._looked :] if isinstance(ended, Trial) and not ended.stopped_at]
        self._looked = len(study.ended)
        self._compare(fresh)
        if self._reference:
            for trial in fresh:
                self._front.add(gains(trial.metrics, self._objective.axes, self._reference))
        made, taken_min = study.count - self._before, (time.monotonic() - self._began) / 60
        self.standing = replace(
            self.standing,
            done=study.count,
            trials_per_minute=made / taken_min if made and taken_min else None,
            bests=tuple((goal.name, describe(trial, goal)) for goal, trial in self._bests.items()),
            front=(len(self._front.points), self._front.volume) if self._reference else None,
            stopped=len(study.stopped),
            failed=len(study.failed),
        )
        if self._advance and study.count > self._shown:
            self._advance(study.count - self._shown)
            self._shown = study.count

    def _compare(self, fresh: Sequence[Trial]) -> None:
        """Keep the best for each goal; all are compared anew where finalists were evaluated again earlier."""
        for goal in self._objective.goals if fresh else ():
            if self._study.repeats:
                self._bests[goal] = incumbent(self._study, goal)
                continue
            for trial in fresh:
                if goal not in self._bests or goal.score(trial.metrics) > goal.score(self._bests[goal].metrics):
                    self._bests[goal] = trial


@contextlib.contextmanager
def watching(
    objective: Objective,
    study: Study,
    trials: int,
    epochs: int,
    reporter: Reporter,
    reference: ReferencePoint | None = None,
) -> Iterator[ProgressTracker]:
    """Give what is to be told of the search; `epochs` are those of a full training.

    On a terminal a display shows it until the end, and messages printed meanwhile stand above it. Elsewhere each
    trial is a line. A front is shown where its `reference` is given.
    """
    standing = SearchProgress(study.count, trials, epochs)
    if reporter.live:
        watched = ProgressTracker(objective, study, standing, reference, None, reporter)
        with reporter.display(lambda: view(watched.standing)):
            yield watched
    else:
        with reporter.task("searching", trials) as advance:
            yield ProgressTracker(objective, study, standing, reference, advance, reporter)


def incumbent(study: Study, goal: Goal | Objective) -> Trial:
    """Return the best of the trials that finished, by what is known of their accuracy.

    Where finalists were evaluated again earlier in this run, the noise is known, and a value that stands out by luck
    counts for less. A controller cannot be told so: TPE knows no noise, it takes each value as it is.
    """
    noise, accuracies = study.noise, study.accuracies()

    def score(trial: Trial) -> float:
        known = accuracies[trial.digest]
        estimate = noise.estimate(known) if noise else known[0]
        return goal.score(replace(trial.metrics, accuracy=estimate))

    return max(study.trials, key=score)


def describe(trial: Trial, of: Goal | Objective) -> str:
    """Return a trial in words, as a goal sees it, or all of them."""
    goals = (of,) if isinstance(of, Goal) else of.goals
    latencies = " / ".join(dict.fromkeys(format_latency(trial.metrics.on(goal.device).latency_ms) for goal in goals))
    scores = " / ".join(f"{goal.score(trial.metrics):.3f}" for goal in goals)
    return f"{trial.metrics.accuracy:.1%} at {latencies} (score {scores})"
