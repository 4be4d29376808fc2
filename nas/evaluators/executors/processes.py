"""Candidates in processes of this machine: one that hangs, crashes or eats the memory fails alone.

Nothing of the parent is inherited: each process starts anew, makes its own evaluator, and lives across candidates. It
ends when its pipe does, so it never outlives the parent, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from nas.evaluators.executors.evaluator_host import DIED, THREADS, Build, EvaluatorHost, Message, Reply
from nas.utils.allocator import keep_freed_memory

GOODBYE_S = 3.0


class Process:
    """A process with a host in it, and the parent's end of its pipe. A Worker of nas/executors/pool.py."""

    def __init__(self, build: Build, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Not a daemon: such a process may have no children, and a loader of images has.
        self._process = context.Process(target=work, args=(build, theirs), name="nas worker", daemon=False)
        with environment(threads):
            self._process.start()
        theirs.close()
        atexit.register(self.connection.close)  # before multiprocessing waits for its children

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def send(self, message: Message) -> None:
        """Send a message; that the process is gone is told by `receive`."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Reply:
        """Return what the process said, or how it ended."""
        try:
            reply: Reply = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(GOODBYE_S)
            return DIED, ended(self._process.exitcode)
        return reply

    def kill(self) -> None:
        """End the process now."""
        atexit.unregister(self.connection.close)
        self.connection.close()
        self._process.kill()
        self._process.join()


class ProcessBackend:
    """So many processes of this machine, with equal shares of its cores. A Crew of nas/executors/pool.py."""

    def __init__(self, build: Build, workers: int):
        self._build, self._workers = build, workers
        self._threads = threads_each(workers)

    @property
    def slots(self) -> int:
        """Return how many processes there may be."""
        return self._workers

    def start_worker(self) -> Process:
        """Start a process."""
        return Process(self._build, self._threads)

    def wait(self, workers: Sequence[Process], timeout_s: float | None) -> list[Process]:
        """Return the processes that have said something or ended."""
        ready = multiprocessing.connection.wait([worker.connection for worker in workers], timeout_s)
        return [worker for worker in workers if worker.connection in ready]

    def close(self) -> None:
        """There is nothing but the processes."""


def threads_each(workers: int) -> int:
    """Return the threads of one of so many workers: its share of the cores, or fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get(THREADS[0], "")
    share = max(1, cores // workers)
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else share


@contextlib.contextmanager
def environment(threads: int) -> Iterator[None]:
    """Have processes that are started within this block compute with so many threads, and leave Ctrl-C to the parent.

    torch reads the threads at its import, and Ctrl-C may come before that. It is ignored, which a new process inherits;
    that it is blocked as well keeps it for the parent, but is not enough: multiprocessing unblocks it as it starts the
    tracker of its resources. Only the main thread may say what is ignored.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.getsignal(signal.SIGINT)
    ours = handler is not None and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def ended(status: int | None) -> str:
    """Return in words how a process ended; `status` is that of multiprocessing, minus the signal's number."""
    if status is None:
        return "its process closed its pipe"
    if status >= 0:
        return f"its process ended with status {status}"
    if status == -signal.SIGKILL:
        return "its process was killed (signal 9): out of memory?"
    return f"its process was killed (signal {-status}: {signal.strsignal(-status)})"


def work(build: Build, connection: Connection) -> None:
    """Be a worker: make the evaluator, then answer messages until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whatever thread started it
    os.dup2(2, 1)  # stdout belongs to the parent's result
    keep_freed_memory()
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    host = EvaluatorHost(build)
    reply: Reply | None = host.ready()
    while True:
        if reply is not None:
            with contextlib.suppress(OSError):  # nobody listens any more: the thread ends the process
                connection.send(reply)
        reply = host.answer(inbox.get())


def _listen(connection: Connection, inbox: queue.SimpleQueue[Message]) -> None:
    """Pass messages on; end the process with the pipe, in the middle of an evaluation too."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)
