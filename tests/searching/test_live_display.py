"""What a person sees of a search: the display's facts, the lines in logs, and that messages do not tear a terminal."""

from __future__ import annotations

import io
import os
import pty
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nas.networks.network import canonical
from nas.searching.live_display import SearchProgress, describe, describe_pace, list_running, track_progress, view
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import Metrics, make_objective
from nas.study.ranking import gains
from nas.study.study import Study, Trial, open_study
from nas.utils.reporting import Reporter
from tests.helpers.trials import record
from tests.study.test_multi_goal import goals


def drawn(progress: SearchProgress, width: int = 100) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(view(progress))
    return console.export_text()


def test_the_display_says_what_there_is_to_know() -> None:
    progress = SearchProgress(
        done=37, total=120, epochs=4, trials_per_minute=4.25,
        bests=(("20ms", "93% at 18 ms"), ("40ms", "95% at 31 ms")),
        front=(14, 0.51234), running={39: 0, 38: 1}, stopped=3, failed=1, last="trial 37: [red]x[/red]",
    )  # fmt: skip
    text = drawn(progress)
    for words in (
        "searching", "37/120, 4.25 trials/min, 20 min left", "best 20ms  93% at 18 ms", "best 40ms  95% at 31 ms",
        "14 networks, hypervolume 0.5123", "38 (epoch 2 of 4), 39 (epoch 1 of 4)", "3 stopped early, 1 failed",
        "trial 37: [red]x[/red]",
    ):  # fmt: skip
        assert words in text
    assert "━" in text


def test_before_the_first_trial_and_after_the_last_nothing_is_made_up() -> None:
    text = drawn(SearchProgress(0, 12))
    assert "0/12" in text
    assert "nothing yet" in text
    assert not any(word in text for word in ("left", "front", "running", "failed", "trials/min"))
    assert describe_pace(SearchProgress(12, 12, trials_per_minute=2.0)) == "12/12, 2 trials/min"
    assert list_running(SearchProgress(0, 99, running=dict.fromkeys(range(1, 12), 0))).endswith("8 and 3 more")
    assert all(len(line) <= 40 for line in drawn(SearchProgress(1, 12, bests=(("", "x" * 90),)), width=40).splitlines())


@pytest.fixture
def space(tiny_space: Path) -> Space:
    return load_space(str(tiny_space)).for_classes(10)


def end(study: Study, space: Space, seed: int, accuracy: float, ms: float, stopped: bool = False) -> Trial:
    """End a random candidate of that seed."""
    choices = space.sample(random.Random(seed))
    metrics, arch = Metrics(accuracy, ms, 10, 20), canonical(space.decode(choices))
    return record(study, choices, arch, metrics, (accuracy,), curve=(accuracy,), stopped=stopped)


def test_a_log_gets_a_line_for_each_trial_and_quiet_gets_none(
    space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = make_objective("constrained", 10.0)
    for quiet in (False, True):
        with (
            open_study(tmp_path / str(quiet), {}, space, ("maximize",)) as study,
            track_progress(objective, study, 3, 2, Reporter(quiet)) as tracker,
        ):
            tracker.ended(0, end(study, space, 0, 0.5, 9.0))
            tracker.ended(1, end(study, space, 1, 0.3, 4.0, stopped=True))
        lines = capsys.readouterr().err.splitlines()
        if quiet:
            assert lines == []
            continue
        assert "trial 1: 50.0% at 9 ms (score 0.500); best so far 50.0% at 9 ms (score 0.500)" in lines
        assert any(
            "trial 2: 30.0%" in line and "stopped after 1 of 2 epochs; best so far 50.0%" in line for line in lines
        )


def test_the_facts_follow_the_study_and_count_what_was_there_before(space: Space, tmp_path: Path) -> None:
    objective, reference = make_objective("pareto", 10.0), {"accuracy": (0.0,), "latency": (20.0,)}
    with open_study(tmp_path, {}, space, ("maximize",)) as study:
        first = end(study, space, 0, 0.5, 10.0)
        with track_progress(objective, study, 5, 1, Reporter(quiet=True), reference) as tracker:
            assert (tracker.progress.done, tracker.progress.trials_per_minute) == (1, None)
            assert tracker.progress.front == (1, 0.25)
            assert gains(first.metrics, objective.axes, reference).tolist() == [0.5, 0.5]
            tracker.running(1)
            tracker.running(1, 3)
            assert tracker.progress.running == {2: 3}
            better = end(study, space, 1, 0.8, 8.0)
            tracker.ended(1, better)
            assert tracker.progress.running == {}
            assert tracker.progress.done == 2
            assert tracker.progress.front[1] == pytest.approx(0.8 * 0.6)
            assert tracker.progress.bests == (("", describe(better, objective)),)
            assert "trials/min" in describe_pace(tracker.progress)


def test_each_goal_has_a_best_of_its_own(space: Space, tmp_path: Path) -> None:
    objective = goals("constrained", [5.0, 20.0])
    with (
        open_study(tmp_path, {}, space, ("maximize",)) as study,
        track_progress(objective, study, 2, 1, Reporter(quiet=True)) as tracker,
    ):
        tracker.ended(0, end(study, space, 0, 0.5, 4.0))
        tracker.ended(1, end(study, space, 1, 0.9, 15.0))
        assert [(name, words[:5]) for name, words in tracker.progress.bests] == [("5ms", "50.0%"), ("20ms", "90.0%")]


SHOW = """
import sys, time
from nas.searching.live_display import SearchProgress, view
from nas.utils.reporting import Reporter
reporter = Reporter()
assert reporter.live
with reporter.display(lambda: view(SearchProgress(3, 9, bests=(("", "93% at 18 ms"),)))):
    reporter.say("a message [in brackets] " + "x" * 30)
    reporter.warn("a warning")
    with reporter.task("a task within", 2) as advance:
        advance(2)
print("result")
"""


def test_on_a_terminal_messages_stand_whole_above_the_display() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=theirs, check=False, text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    text = seen.decode()
    assert done.stdout == "result\n", text
    assert "a message [in brackets] " + "x" * 30 in text
    assert "warning: a warning" in text
    assert "a task within: 2/2" in text
    assert text.count("93% at 18 ms") >= 1
    assert text.rindex("93% at 18 ms") > text.index("a task within")
