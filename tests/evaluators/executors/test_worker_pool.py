"""The worker pool with scripted workers: assignment of candidates, and workers that are lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest

from nas.architecture import Architecture, BlockSpec
from nas.errors import RunError
from nas.evaluators.executors.base import Event, Task, evaluate_all
from nas.evaluators.executors.evaluator_host import (
    ACCURACY,
    BEGIN,
    DIED,
    END,
    LOST,
    MORE,
    READY,
    STOP,
    UNFIT,
    Message,
    Reply,
)
from nas.evaluators.executors.worker_pool import MAX_FAILED_STARTS, MAX_LOST, WorkerPoolExecutor

ARCH = Architecture(8, (), BlockSpec("classifier"))


class Played:
    """A worker with scripted replies. It records the messages that it was sent."""

    def __init__(self, replies: Sequence[Reply], known: bool = False):
        self.replies, self.received, self.dead, self.known = deque(replies), list[Message](), False, known

    def alive(self) -> bool | None:
        return not self.dead if self.known else None

    def send(self, message: Message) -> None:
        self.received.append(message)

    def receive(self) -> Reply:
        return self.replies.popleft()

    def kill(self) -> None:
        self.dead = True


class Stage:
    """Starts scripted workers one after the other. Of several that were asked, the first one replies first."""

    def __init__(self, *scripts: Sequence[Reply], slots: int = 1, known: bool = False):
        self.known = known
        self.scripts, self.started, self.slots, self.closed = deque(scripts), list[Played](), slots, False

    def start_worker(self) -> Played:
        self.started.append(Played(self.scripts.popleft(), self.known))
        return self.started[-1]

    def wait(self, workers: Sequence[Played], timeout_s: float | None) -> list[Played]:
        return [next(worker for worker in workers if worker.replies)]

    def close(self) -> None:
        self.closed = True


UP = (READY, None)


def accuracies(*values: float) -> list[Reply]:
    return [*((ACCURACY, value) for value in values), (END, 1.5)]


def test_a_candidate_whose_place_is_lost_begins_again_and_what_was_told_is_void(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage([UP, (ACCURACY, 0.1), (LOST, "its node is lost")], [UP, *accuracies(0.2, 0.3)])
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(5, ARCH, 7)
    found = [pool.wait() for _ in range(5)]
    assert found == [Event(5, 0.1), Event(5, again=True), Event(5, 0.2), Event(5, 0.3), Event(5)]
    assert not found[1].ended
    first, second = stage.started
    assert first.dead
    assert first.received == [(BEGIN, ARCH, 7, 1), (MORE,)]
    assert second.received == [(BEGIN, ARCH, 7, 1), (MORE,), (MORE,)]
    assert capsys.readouterr().out == f"{ARCH.digest} starts over: its node is lost\n"


def test_the_end_of_a_candidate_reports_its_processor_time() -> None:
    pool = WorkerPoolExecutor(Stage([UP, *accuracies(0.2)]), None, print)
    (outcome,) = evaluate_all(pool, [Task(ARCH, 7)])
    assert (outcome.curve, outcome.processor_s, outcome.crashed) == ((0.2,), 1.5, False)
    pool = WorkerPoolExecutor(Stage([UP, (DIED, "killed")], known=True), None, print)
    (outcome,) = evaluate_all(pool, [Task(ARCH, 7)])
    assert (outcome.error, outcome.crashed) == ("killed", True)


def test_a_candidate_that_loses_every_place_fails(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(*[[UP, (LOST, "its node is lost")]] * (MAX_LOST + 1), [UP, *accuracies(0.2)])
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(0, ARCH, 7)
    found = [pool.wait() for _ in range(MAX_LOST + 1)]
    assert [event.again for event in found] == [True] * MAX_LOST + [False]
    assert str(found[-1].error) == "its node is lost"
    pool.start(1, ARCH, 7)
    assert [pool.wait(), pool.wait()] == [Event(1, 0.2), Event(1)]


def test_a_worker_that_is_lost_or_dies_before_it_is_ready_costs_no_candidate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage([(LOST, "gone")], [(DIED, "killed")], [UP, *accuracies(0.2)])
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(0, ARCH, 7)
    assert [pool.wait(), pool.wait()] == [Event(0, 0.2), Event(0)]
    pool.close()
    assert stage.closed
    assert all(worker.dead for worker in stage.started)
    said = "a worker ended while it created the evaluator; starting another one: {}\n"
    assert capsys.readouterr().out == said.format("gone") + said.format("killed")


@pytest.mark.parametrize("kind", [LOST, DIED])
def test_workers_that_never_become_ready_end_the_search(kind: str) -> None:
    stage = Stage(*[[(kind, "killed")]] * (MAX_FAILED_STARTS + 1))
    pool = WorkerPoolExecutor(stage, 1.0, print)
    pool.start(0, ARCH, 7)
    with pytest.raises(RunError, match=r"^no worker can be started: killed \(3 in a row ended while"):
        pool.wait()
    assert len(stage.started) == MAX_FAILED_STARTS


def test_a_worker_that_died_while_it_was_free_costs_no_candidate_and_one_begins_again_only_once() -> None:
    died: Reply = (DIED, "killed")
    stage = Stage([UP, *accuracies(0.1), died], [UP, *accuracies(0.2), died], [UP, died], [UP, (ACCURACY, 0.3), died])
    pool = WorkerPoolExecutor(stage, None, lambda _: None)
    pool.start(0, ARCH, 7)
    assert [pool.wait(), pool.wait()] == [Event(0, 0.1), Event(0)]
    pool.start(1, ARCH, 7)
    assert [pool.wait() for _ in range(3)] == [Event(1, again=True), Event(1, 0.2), Event(1)]
    pool.start(2, ARCH, 7)
    again, failed = pool.wait(), pool.wait()
    assert again == Event(2, again=True)
    assert str(failed.error) == "killed"
    pool.start(3, ARCH, 7)  # a worker that is asked as soon as it is ready, and one that has spoken, were alive
    told, failed = pool.wait(), pool.wait()
    assert told == Event(3, 0.3)
    assert str(failed.error) == "killed"


def test_a_worker_that_is_known_to_live_and_dies_takes_its_candidate_with_it() -> None:
    stage = Stage([UP, *accuracies(0.1), (DIED, "killed")], known=True)
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(0, ARCH, 7)
    assert [pool.wait(), pool.wait()] == [Event(0, 0.1), Event(0)]
    pool.start(1, ARCH, 7)
    assert str(pool.wait().error) == "killed"


def test_workers_that_end_together_count_as_one_and_a_ready_one_begins_the_count_anew() -> None:
    gone = [(LOST, "gone")]
    stage = Stage(gone, gone, gone, gone, [UP, (DIED, "killed")], *[gone] * 2, [UP, *accuracies(0.2)], *[[]] * 4)
    pool = WorkerPoolExecutor(stage, None, lambda _: None)
    for number in range(4):
        pool.start(number, ARCH, 7)
    died = pool.wait()
    assert (died.number, str(died.error)) == (0, "killed")
    assert [pool.wait(), pool.wait()] == [Event(1, 0.2), Event(1)]


def test_a_free_worker_takes_what_waits_for_one_that_does_not_come() -> None:
    """A node was lost: the other one must not wait for an actor that has no place to be."""
    stage = Stage([UP, *accuracies(0.1), *accuracies(0.2)], [], slots=2)
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(0, ARCH, 7)
    pool.start(1, ARCH, 7)
    assert [pool.wait() for _ in range(4)] == [Event(0, 0.1), Event(0), Event(1, 0.2), Event(1)]
    assert [len(worker.received) for worker in stage.started] == [4, 0]


def test_a_stopped_candidate_is_not_heard_of_and_its_worker_goes_on() -> None:
    stage = Stage([UP, (ACCURACY, 0.1), *accuracies(0.2)])
    pool = WorkerPoolExecutor(stage, None, print)
    pool.start(0, ARCH, 7)
    assert pool.wait() == Event(0, 0.1)
    pool.stop(0)
    pool.start(1, ARCH, 8)
    assert [pool.wait(), pool.wait()] == [Event(1, 0.2), Event(1)]
    assert stage.started[0].received == [(BEGIN, ARCH, 7, 1), (STOP,), (BEGIN, ARCH, 8, 1), (MORE,)]


def test_what_is_stopped_before_or_while_it_is_evaluated() -> None:
    stage = Stage([UP, (ACCURACY, 0.1)], [UP, *accuracies(0.2)], [], slots=2)
    pool = WorkerPoolExecutor(stage, None, print)
    for number in range(3):
        pool.start(number, ARCH, 7)
    assert pool.wait() == Event(0, 0.1)
    pool.stop(2)  # it waits for a worker
    stage.started[0].replies.clear()
    assert pool.wait() == Event(1, 0.2)
    pool.stop(0)  # its worker has been asked
    assert stage.started[0].dead
    assert pool.wait() == Event(1)
    assert len(stage.started) == 3  # the third was started for the candidate that was stopped


def test_a_place_where_nothing_can_be_evaluated_ends_the_search() -> None:
    pool = WorkerPoolExecutor(Stage([(UNFIT, "no such file")]), None, print)
    pool.start(0, ARCH, 7)
    with pytest.raises(RunError, match="no such file"):
        pool.wait()
