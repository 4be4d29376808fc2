"""Candidates on a Ray cluster: an actor for each, with the resources of a trial, wherever a node has them.

Ray places, queues and moves; what is tried, stopped and recorded is decided by the same loop as without it, in the
driver. The evaluator's recipe, with data and space, is put into the object store once. A node that is lost loses the
evaluations on it: they begin again elsewhere. An actor whose process is killed fails its candidate.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas import __version__
from nas.errors import UsageError, reason
from nas.evaluators.executors.evaluator_host import (
    DIED,
    LOST,
    READY,
    STOP,
    THREADS,
    UNFIT,
    Build,
    EvaluatorHost,
    Message,
    Reply,
)
from nas.utils.allocator import keep_freed_memory

LOCAL = "local"
"""The address of a cluster that is made of this machine, for one search."""
CONNECT_S = 5.0
PROBE_S = 60.0
PATIENCE_S = 30.0
"""How long to wait for a node that can take a trial before saying so."""
LOOK_S = 1.0
"""How long what is known of the nodes is good for."""
PROBE = """
import json, logging, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""
MISSING = "--ray: needs the package ray: pip install 'hwnas[ray]'"
KILLED = "its process was killed or crashed: out of memory?"
UNBORN = "its process was killed or crashed, or its node is lost: out of memory?"
"""Where it was is not known before it is ready."""


class Actor:
    """A Host on a node; it says which node that is."""

    def __init__(self, build: Sequence[Any], folder: str, threads: int):
        self._build, self._folder, self._threads = build, folder, threads

    def ready(self) -> Reply:
        """Make the evaluator; return READY with the node's id and our version there, or UNFIT and why."""
        import ray

        os.dup2(2, 1)
        keep_freed_memory()
        with contextlib.suppress(OSError):  # where the folder is not shared, paths in it are of no use anyway
            os.chdir(self._folder)
            sys.path.insert(0, self._folder)
        os.environ.update(dict.fromkeys(THREADS, str(self._threads)))  # torch is not imported yet
        try:
            self._host = EvaluatorHost(ray.get(self._build[0]))
        except Exception as error:
            return UNFIT, f"the evaluator cannot be made on node {socket.gethostname()}: {reason(error)}"
        kind, text = self._host.ready()
        return kind, text if kind == UNFIT else (ray.get_runtime_context().get_node_id(), __version__)

    def answer(self, message: Message) -> Reply | None:
        """Do what a message says."""
        return self._host.answer(message)


class RayWorker:
    """An actor and the reply that is expected of it. A Worker of nas/executors/pool.py."""

    def __init__(self, actor: Any):
        self._actor, self._node = actor, ""
        self.reply = actor.ready.remote()

    def alive(self) -> None:
        """Nothing is known without asking."""

    def send(self, message: Message) -> None:
        """Send a message."""
        reply = self._actor.answer.remote(message)
        if message[0] != STOP:
            self.reply = reply

    def receive(self) -> Reply:
        """Return what the actor said, or how it ended."""
        import ray

        try:
            kind, value = ray.get(self.reply)
        except ray.exceptions.RayError as error:
            return self._ended(ray, error)
        if kind != READY:
            return kind, value
        self._node, version = value
        if version != __version__:
            return UNFIT, f"--ray: a node has hwnas {version}, this is {__version__}: install the same on each node"
        return READY, None

    def _ended(self, ray: Any, error: Any) -> Reply:
        """Return what an exception of Ray says of the actor, and whether its candidate is the cause."""
        kinds = ray.exceptions
        if isinstance(error, kinds.OutOfMemoryError):
            return DIED, "its process was ended by Ray: out of memory"
        if isinstance(error, kinds.ActorUnavailableError):
            return LOST, "its node does not answer"
        if isinstance(error, kinds.ActorDiedError) and not error.actor_init_failed:
            if not self._node:
                return DIED, UNBORN
            return (DIED, KILLED) if self._node in living(ray) else (LOST, "its node is lost")
        return UNFIT, f"--ray: no candidate can be evaluated there: {_last_line(error)}"

    def kill(self) -> None:
        """End the actor now."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


class RayBackend:
    """As many actors as the cluster's nodes have room for. A Crew of nas/executors/pool.py.

    `cpus` and `gpus` (a part of one, too) are what Ray sets aside for each; torch computes with as many threads.
    Raises UsageError as `check_cluster` does.
    """

    def __init__(self, address: str, build: Build, cpus: float, gpus: float, warn: Callable[[str], None]):
        self._stack = contextlib.ExitStack()
        self._needs, self._warn = {"CPU": cpus, "GPU": gpus}, warn
        self._room, self._looked = 0, -LOOK_S
        self._ray = ray = self._stack.enter_context(connected(address))
        try:
            check_resources([node["Resources"] for node in living(ray).values()], self._needs)
            self._recipe = ray.put(build)
        except BaseException:
            self._stack.close()
            raise
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Actor)

    @property
    def slots(self) -> int:
        """Return how many trials the nodes that are there now can take, at least 1: a node may come."""
        return max(1, self._see())

    def start_worker(self) -> RayWorker:
        """Have an actor started, as soon as Ray has the resources for it."""
        threads = max(1, int(self._needs["CPU"]))
        return RayWorker(self._kind.remote([self._recipe], str(Path.cwd()), threads))

    def wait(self, workers: Sequence[RayWorker], timeout_s: float | None) -> list[RayWorker]:
        """Return the workers that have said something or ended."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = PATIENCE_S if end is None else max(0.0, min(PATIENCE_S, end - time.monotonic()))
            replies, _ = self._ray.wait([worker.reply for worker in workers], timeout=left_s)
            if replies or (end is not None and time.monotonic() >= end):
                return [worker for worker in workers if worker.reply in replies]
            if self._see() == 0:
                self._warn(f"no node of the cluster can take a trial ({in_words(self._needs)}): waiting for one")

    def close(self) -> None:
        """Leave the cluster; one that was made for this search ends."""
        self._stack.close()

    def _see(self) -> int:
        """Return how many trials the nodes can take."""
        if time.monotonic() - self._looked >= LOOK_S:
            nodes = living(self._ray).values()
            self._room = sum(trials_on(node["Resources"], self._needs) for node in nodes)
            self._looked = time.monotonic()
        return self._room


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Give ray, connected to the cluster at `address`: LOCAL, auto (the one running here) or host:port.

    What is connected already is used and left connected. Raises UsageError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(MISSING) from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hushed(ray._private.worker))
        if not ray.is_initialized():
            _connect(ray, address)
            stack.callback(ray.shutdown)
        yield ray


@contextlib.contextmanager
def _hushed(worker: Any) -> Iterator[None]:
    """Keep Ray from telling on stdout what befalls nodes and processes: events tell it, and stdout has the result.

    It does so whatever `log_to_driver` says, by a function that has no switch.
    """
    name = "print_to_stdstream"
    before = getattr(worker, name, None)
    setattr(worker, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(worker, name, before)


def _connect(ray: Any, address: str) -> None:
    import logging

    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds, Exception itself among them
        raise UsageError(f"--ray {address}: {_one_line(str(error))}") from error


def check_cluster(address: str, cpus: float, gpus: float) -> None:
    """Raise UsageError where there is no Ray, no cluster at the address, or no node that can take a trial.

    It takes a second and starts nothing, so that a search can ask before it does other work.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(MISSING)
    if address == LOCAL:
        import torch

        nodes = [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]
    else:
        nodes = _probe(address)
    check_resources(nodes, {"CPU": cpus, "GPU": gpus})


def _probe(address: str) -> list[dict[str, float]]:
    """Return the resources of a cluster's nodes. Raises UsageError where none answers, or one of another version.

    In a process of its own: ray waits for minutes where something else listens at the port, and then ends the process.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16 or "/" in host:
            raise UsageError(f"--ray: an address is 'auto' or host:port, as 'head:6379': {address!r}")
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            raise UsageError(f"--ray: no cluster answers at {address}: {error.strerror or error}") from error
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"--ray: what answers at {address} is no Ray cluster, or one that is stuck") from None
    if probe.returncode:
        raise UsageError(f"--ray {address}: {_refusal(probe.stderr)}")
    found: list[dict[str, float]] = json.loads(probe.stdout.splitlines()[-1])
    return found


def _refusal(stderr: str) -> str:
    """Return the message of the exception at the end of a traceback, in one line without the exception's module."""
    lines = stderr.strip().splitlines()
    starts = [index for index, line in enumerate(lines) if line[:1].isalpha() and "Error: " in line]
    message = " ".join(lines[starts[-1] :]) if starts else " ".join(lines[-1:])
    return _one_line(message.partition("Error: ")[2] or message)


def living(ray: Any) -> dict[str, dict[str, Any]]:
    """Return the cluster's nodes that are alive, by their ids."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def trials_on(resources: dict[str, float], needs: dict[str, float]) -> int:
    """Return how many trials with such needs a node with such resources can take at once."""
    return int(min(resources.get(name, 0.0) / amount + 1e-6 for name, amount in needs.items() if amount > 0))


def check_resources(nodes: Sequence[dict[str, float]], needs: dict[str, float]) -> None:
    """Raise UsageError where no node can take a trial, with the resource that each of them lacks."""
    if any(trials_on(resources, needs) for resources in nodes):
        return
    for name, amount in needs.items():
        most = max((resources.get(name, 0.0) for resources in nodes), default=0.0)
        if amount > 0 and most < amount:
            has = f"no node has more than {most:g}" if most else f"no node has a {name}"
            raise UsageError(f"--ray-{name.lower()}s {amount:g}: {has}")
    raise UsageError(f"--ray-cpus, --ray-gpus: no node has {in_words(needs)} together")


def in_words(needs: dict[str, float]) -> str:
    """Return resources in words."""
    return " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount > 0)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _last_line(error: Exception) -> str:
    return _one_line((str(error).strip().splitlines() or [""])[-1])
