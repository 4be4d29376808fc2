"""Python code in a process of its own, which a test can kill: forked by a server that has imported torch already."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.evaluators.executors import processes

processes.PRELOADED += ("nas.searching.job", "torch._dynamo", "optuna", "onnx", "matplotlib.pyplot")  # for all tests
NAS = "import sys; from nas.cli.main import main; sys.exit(main(sys.argv[1:]))"
ONE_CORE = f"import os; os.cpu_count = lambda: 1\n{NAS}"
"""`nas` on a machine that seems to have one core."""


def start_nas(
    arguments: list[str], stdout: Path | str = os.devnull, stderr: Path | str = os.devnull, code: str = NAS
) -> Any:
    """Start `nas`, or other code, with arguments and one thread; return its multiprocessing.Process.

    Output goes to files.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    streams = (str(Path(stdout).absolute()), str(Path(stderr).absolute()))
    context: Any = processes.worker_context()
    process = context.Process(target=_run, args=(code, arguments, environment, streams))
    process.start()
    return process


def kill_when(process: Any, condition: Callable[[], bool]) -> None:
    """Kill a process, with no time to clean up, as soon as the condition holds, or after two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive() and not condition():
        time.sleep(0.005)
    process.kill()
    process.join()


def _run(code: str, arguments: list[str], environment: dict[str, str], streams: tuple[str, str]) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    for descriptor, path in zip((1, 2), streams, strict=True):
        with Path(path).open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), descriptor)
    from nas.networks import exported_outputs
    from tests.helpers.this_process import ThisProcess

    vars(exported_outputs)["subprocess"] = ThisProcess  # as the fixture `exported_file_runs_here` does
    if arguments[:1] == ["search"]:  # as the fixture `no_published_reference` does for searches in the tests' process
        from nas.searching.against import choice

        choice.published_networks = lambda space, resolution: []
    sys.argv = ["nas", *arguments]
    exec(code, {"__name__": "__main__"})
