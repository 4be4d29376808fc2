"""The process backend: workers in other processes of this machine.

A candidate that hangs, crashes or runs out of memory fails alone. Each process creates its own evaluator and evaluates
one candidate after another. A process ends when its pipe is closed, so it cannot outlive its parent.

A server process imports torch once and forks each worker: a worker starts in milliseconds. Nothing is forked from this
process, whose threads would not survive it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from nas.evaluators.executors.evaluator_host import DIED, THREADS, Build, EvaluatorHost, Message, Reply
from nas.utils.allocator import keep_freed_memory

EXIT_WAIT_S = 3.0
"""How long to wait for the exit status of a process whose pipe is closed."""


PRELOADED: tuple[str, ...] = (
    "nas.evaluators.proxy_training",
    "torchvision.transforms.v2",
    "sklearn.datasets",
    "sklearn.model_selection",
)
"""What the server imports: most evaluators need it."""


def worker_context() -> multiprocessing.context.BaseContext:
    """Return how processes are started: by a server that has imported PRELOADED, and forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Stderr:
    """This process's stderr; pickled for a new process, it becomes a file descriptor there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(2),)


def _received(descriptor: Any) -> int:
    return int(descriptor.detach())


class ProcessWorker:
    """A process with an EvaluatorHost, and the parent's end of its pipe. Implements `worker_pool.Worker`."""

    def __init__(self, build: Build, threads: int):
        context: Any = worker_context()
        self.connection, child_connection = context.Pipe()
        with worker_environment(threads):
            arguments = (build, child_connection, Stderr(), dict(os.environ), threads)
            # Not a daemon: daemons may not have child processes, which data loaders need.
            self._process = context.Process(target=run_worker, args=arguments, name="nas worker", daemon=False)
            self._process.start()
        child_connection.close()
        atexit.register(self.connection.close)  # runs before multiprocessing waits for its children

    def alive(self) -> bool:
        """Return whether the process is running."""
        return bool(self._process.is_alive())

    def send(self, message: Message) -> None:
        """Send a message. If the process is gone, `receive` reports it."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Reply:
        """Return the reply of the process, or DIED with the reason."""
        try:
            reply: Reply = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(EXIT_WAIT_S)
            return DIED, describe_exit(self._process.exitcode)
        return reply

    def kill(self) -> None:
        """Kill the process."""
        atexit.unregister(self.connection.close)
        self.connection.close()
        self._process.kill()
        self._process.join()


class ProcessBackend:
    """Up to `workers` processes of this machine with equal shares of its cores. Implements `WorkerBackend`."""

    def __init__(self, build: Build, workers: int):
        self._build, self._workers = build, workers
        self._threads = threads_per_worker(workers)

    @property
    def slots(self) -> int:
        """Return the maximum number of processes."""
        return self._workers

    def start_worker(self) -> ProcessWorker:
        """Start a process."""
        return ProcessWorker(self._build, self._threads)

    def wait(self, workers: Sequence[ProcessWorker], timeout_s: float | None) -> list[ProcessWorker]:
        """Return the processes that have replied or ended."""
        ready = multiprocessing.connection.wait([worker.connection for worker in workers], timeout_s)
        return [worker for worker in workers if worker.connection in ready]

    def close(self) -> None:
        """Do nothing: the processes are all that there is to release, and the pool kills them."""


def threads_per_worker(workers: int) -> int:
    """Return the threads of each of `workers` processes: its share of the cores, at most OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get(THREADS[0], "")
    share = max(1, cores // workers)
    return min(share, int(limit)) if limit.isdecimal() and int(limit) > 0 else share


@contextlib.contextmanager
def worker_environment(threads: int) -> Iterator[None]:
    """Let processes that start within this block compute with `threads` threads and ignore Ctrl-C.

    Both must be set before the process starts: torch reads the threads when it is imported, and Ctrl-C may come
    earlier than that. A new process inherits that SIGINT is ignored. SIGINT is blocked too, so that the parent does
    not miss it meanwhile. Blocking alone does not suffice, because multiprocessing unblocks the signal when it starts
    its resource tracker. Only the main thread may change how a signal is handled.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.getsignal(signal.SIGINT)
    can_ignore = handler is not None and threading.current_thread() is threading.main_thread()
    if can_ignore:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if can_ignore:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def describe_exit(status: int | None) -> str:
    """Return how a process ended, in words.

    Args:
        status: The exit code of multiprocessing: negative signal number, or None if the process is still running.
    """
    if status is None:
        return "its process closed its pipe"
    if status >= 0:
        return f"its process ended with status {status}"
    if status == -signal.SIGKILL:
        return "its process was killed (signal 9): out of memory?"
    return f"its process was killed (signal {-status}: {signal.strsignal(-status)})"


def run_worker(build: Build, connection: Connection, stderr: int, environment: dict[str, str], threads: int) -> None:
    """Run as a worker: create the evaluator, then answer messages until the pipe is closed."""
    _leave_the_server(stderr, environment, threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a parent thread other than the main one cannot pass this on
    os.dup2(2, 1)  # stdout is reserved for the result of the parent
    keep_freed_memory()
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_receive_messages, args=(connection, inbox), daemon=True).start()
    host = EvaluatorHost(build)
    reply: Reply | None = host.ready()
    while True:
        if reply is not None:
            with contextlib.suppress(OSError):  # the parent is gone: the thread ends this process
                connection.send(reply)
        reply = host.answer(inbox.get())


def _leave_the_server(stderr: int, environment: dict[str, str], threads: int) -> None:
    """Take the parent's stderr and environment instead of the server's, its share of threads, and a seed of its own."""
    if stderr != 2:
        os.dup2(stderr, 2)
        os.close(stderr)
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _receive_messages(connection: Connection, inbox: queue.SimpleQueue[Message]) -> None:
    """Put messages into the inbox. End the process when the pipe is closed, even during an evaluation."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)
