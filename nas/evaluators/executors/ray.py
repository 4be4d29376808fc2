"""The Ray backend: workers are actors on a Ray cluster, each with the resources of one trial.

Ray only places the actors. The search loop in the driver decides what is tried, stopped and recorded, as it does
without Ray. The function that creates the evaluator, with data and space, is put into the object store once. When a
node is lost, the evaluations on it start over on another node. When an actor's process is killed, its candidate fails.
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
"""The address that starts a cluster on this machine for one search."""
CONNECT_S = 5.0
"""Timeout of the connection to an address."""
PROBE_S = 60.0
"""Timeout of the request for the cluster's nodes."""
WARN_S = 30.0
"""How long to wait for a node that can take a trial before each warning."""
REFRESH_S = 1.0
"""How long the list of nodes is reused."""
PROBE = """
import json, logging, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""
MISSING = "needs the package ray: pip install 'hwnas[ray]'"
KILLED = "its process was killed or crashed: out of memory?"
KILLED_OR_LOST = "its process was killed or crashed, or its node is lost: out of memory?"
"""Before an actor is ready, its node is unknown."""


class Actor:
    """An EvaluatorHost on a node of the cluster."""

    def __init__(self, build: Sequence[Any], folder: str, threads: int):
        self._build, self._folder, self._threads = build, folder, threads

    def ready(self) -> Reply:
        """Create the evaluator. Return READY with (node id, hwnas version there), or UNFIT with the reason."""
        import ray
        import torch

        os.dup2(2, 1)
        keep_freed_memory()
        with contextlib.suppress(OSError):  # if the node does not share the folder, paths in it fail anyway
            os.chdir(self._folder)
            sys.path.insert(0, self._folder)
        os.environ.update(dict.fromkeys(THREADS, str(self._threads)))  # for child processes
        torch.set_num_threads(self._threads)
        try:
            self._host = EvaluatorHost(ray.get(self._build[0]))
        except Exception as error:
            return UNFIT, f"the evaluator cannot be created on node {socket.gethostname()}: {reason(error)}"
        kind, text = self._host.ready()
        return kind, text if kind == UNFIT else (ray.get_runtime_context().get_node_id(), __version__)

    def answer(self, message: Message) -> Reply | None:
        """Process a message."""
        return self._host.answer(message)


class RayWorker:
    """An actor and its next reply. Implements `worker_pool.Worker`."""

    def __init__(self, actor: Any):
        self._actor, self._node = actor, ""
        self.reply = actor.ready.remote()

    def alive(self) -> None:
        """Return None: only a message finds out."""

    def send(self, message: Message) -> None:
        """Send a message."""
        reply = self._actor.answer.remote(message)
        if message[0] != STOP:
            self.reply = reply

    def receive(self) -> Reply:
        """Return the reply of the actor, or how it ended."""
        import ray

        try:
            kind, value = ray.get(self.reply)
        except ray.exceptions.RayError as error:
            return self._exit_reply(ray, error)
        if kind != READY:
            return kind, value
        self._node, version = value
        if version != __version__:
            return UNFIT, f"--ray: a node has hwnas {version}, this is {__version__}: install the same on each node"
        return READY, None

    def _exit_reply(self, ray: Any, error: Any) -> Reply:
        """Return the reply for an exception of Ray: DIED (because of the candidate), LOST or UNFIT."""
        kinds = ray.exceptions
        if isinstance(error, kinds.OutOfMemoryError):
            return DIED, "its process was ended by Ray: out of memory"
        if isinstance(error, kinds.ActorUnavailableError):
            return LOST, "its node does not answer"
        if isinstance(error, kinds.ActorDiedError) and not error.actor_init_failed:
            if not self._node:
                return DIED, KILLED_OR_LOST
            return (DIED, KILLED) if self._node in alive_nodes(ray) else (LOST, "its node is lost")
        return UNFIT, f"--ray: no candidate can be evaluated on the cluster: {_last_line(error)}"

    def kill(self) -> None:
        """Kill the actor."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


class RayBackend:
    """As many actors as the nodes of the cluster have resources for. Implements `worker_pool.WorkerBackend`.

    Args:
        address: The cluster: LOCAL, "auto" or "host:port".
        build: Creates the evaluator on a node.
        cpus: CPUs that Ray reserves for each actor. torch uses as many threads, at least 1.
        gpus: GPUs that Ray reserves for each actor. May be a fraction.
        warn: Prints a warning.

    Raises:
        UsageError: As for `check_cluster`.
    """

    def __init__(self, address: str, build: Build, cpus: float, gpus: float, warn: Callable[[str], None]):
        self._stack = contextlib.ExitStack()
        self._needs, self._warn = {"CPU": cpus, "GPU": gpus}, warn
        self._room, self._refreshed_s = 0, -REFRESH_S
        self._ray = ray = self._stack.enter_context(connected(address))
        try:
            check_resources([node["Resources"] for node in alive_nodes(ray).values()], self._needs)
            self._build = ray.put(build)
        except BaseException:
            self._stack.close()
            raise
        self._actor_class = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Actor)

    @property
    def slots(self) -> int:
        """Return how many trials the current nodes can take, at least 1 because a node may join."""
        return max(1, self._trials_now())

    def start_worker(self) -> RayWorker:
        """Request an actor. It starts as soon as the cluster has the resources."""
        threads = max(1, int(self._needs["CPU"]))
        return RayWorker(self._actor_class.remote([self._build], str(Path.cwd()), threads))

    def wait(self, workers: Sequence[RayWorker], timeout_s: float | None) -> list[RayWorker]:
        """Return the workers that have replied or ended, or none when the time is over."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = WARN_S if end is None else max(0.0, min(WARN_S, end - time.monotonic()))
            replies, _ = self._ray.wait([worker.reply for worker in workers], timeout=left_s)
            if replies or (end is not None and time.monotonic() >= end):
                return [worker for worker in workers if worker.reply in replies]
            if self._trials_now() == 0:
                self._warn(
                    f"no node of the cluster can take a trial ({describe_resources(self._needs)}): waiting for one"
                )

    def close(self) -> None:
        """Disconnect. A cluster that was started for this search ends."""
        self._stack.close()

    def _trials_now(self) -> int:
        """Return how many trials the current nodes can take."""
        if time.monotonic() - self._refreshed_s >= REFRESH_S:
            nodes = alive_nodes(self._ray).values()
            self._room = sum(trials_on(node["Resources"], self._needs) for node in nodes)
            self._refreshed_s = time.monotonic()
        return self._room


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module ray, connected to a cluster. An existing connection is used and stays open.

    Args:
        address: LOCAL (start a cluster on this machine), "auto" (the one running here) or "host:port".

    Raises:
        UsageError: ray is not installed, or the connection fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(MISSING, key="ray") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(_no_stdout(ray._private.worker))
        if not ray.is_initialized():
            _connect(ray, address)
            stack.callback(ray.shutdown)
        yield ray


@contextlib.contextmanager
def _no_stdout(worker: Any) -> Iterator[None]:
    """Stop Ray from printing messages about nodes and processes to stdout, which is reserved for the result.

    Ray prints them even with log_to_driver=False, by a function that has no switch.
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
    except Exception as error:  # ray raises many types, including Exception itself
        raise UsageError(f"cannot connect: {_one_line(str(error))}", key="ray", value=address) from error


def check_cluster(address: str, cpus: float, gpus: float) -> None:
    """Check that a cluster can run trials. This takes about a second and starts nothing.

    Args:
        address: LOCAL, "auto" or "host:port".
        cpus: CPUs of a trial.
        gpus: GPUs of a trial.

    Raises:
        UsageError: ray is not installed, no cluster answers, or no node can take a trial.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(MISSING, key="ray")
    if address == LOCAL:
        import torch

        nodes = [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]
    else:
        nodes = _probe(address)
    check_resources(nodes, {"CPU": cpus, "GPU": gpus})


def _probe(address: str) -> list[dict[str, float]]:
    """Return the resources of each node of a cluster.

    Asks in a separate process, because ray waits for minutes and then ends its process if another program listens at
    the port.

    Raises:
        UsageError: The address is invalid, no cluster answers, or the cluster has another version of ray.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16 or "/" in host:
            raise UsageError("must be 'local', 'auto' or host:port, such as 'head:6379'", key="ray", value=address)
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            rule = f"no cluster answers ({error.strerror or error})"
            raise UsageError(rule, key="ray", value=address) from error
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        rule = f"is not a Ray cluster, or did not answer within {PROBE_S:g} s"
        raise UsageError(rule, key="ray", value=address) from None
    if probe.returncode:
        raise UsageError(f"cannot connect: {_final_exception(probe.stderr)}", key="ray", value=address)
    found: list[dict[str, float]] = json.loads(probe.stdout.splitlines()[-1])
    return found


def _final_exception(stderr: str) -> str:
    """Return the message of the last exception in a traceback, in one line and without the exception's type."""
    lines = stderr.strip().splitlines()
    starts = [index for index, line in enumerate(lines) if line[:1].isalpha() and "Error: " in line]
    message = " ".join(lines[starts[-1] :]) if starts else " ".join(lines[-1:])
    return _one_line(message.partition("Error: ")[2] or message)


def alive_nodes(ray: Any) -> dict[str, dict[str, Any]]:
    """Return the nodes of the cluster that are alive, by node id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def trials_on(resources: dict[str, float], needs: dict[str, float]) -> int:
    """Return how many trials a node can run at once.

    Args:
        resources: The resources of the node, by Ray's names ("CPU", "GPU").
        needs: The resources of one trial. At least one is above 0.
    """
    return int(min(resources.get(name, 0.0) / amount + 1e-6 for name, amount in needs.items() if amount > 0))


def check_resources(nodes: Sequence[dict[str, float]], needs: dict[str, float]) -> None:
    """Raise UsageError if no node has the resources of a trial, naming the resource that is missing."""
    if any(trials_on(resources, needs) for resources in nodes):
        return
    for name, amount in needs.items():
        most = max((resources.get(name, 0.0) for resources in nodes), default=0.0)
        if amount > 0 and most < amount:
            rule = f"no node has more than {most:g} {name}" if most else f"no node has a {name}"
            raise UsageError(rule, key=f"ray_{name.lower()}s", value=amount)
    raise UsageError(f"--ray-cpus, --ray-gpus: no node has {describe_resources(needs)} together")


def describe_resources(needs: dict[str, float]) -> str:
    """Return resources as text: "4 CPU and 1 GPU"."""
    return " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount > 0)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _last_line(error: Exception) -> str:
    return _one_line((str(error).strip().splitlines() or [""])[-1])
