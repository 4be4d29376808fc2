"""A folder that measures a space on a board that cannot be reached, and its way back into a latency table.

Writing and reading run the same profiling code as a live session: with a worker that records its requests, and with
one that answers from what the board recorded. Nothing of a folder that comes back is executed.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas import __version__
from nas.devices.client import Graph, graph_files, request, worker_environment
from nas.devices.offline_runner import ANSWERS, BUNDLE, REQUESTS, SOURCES, bundle_id, digest
from nas.devices.ssh import worker_sources
from nas.devices.timing import COSTS, Protocol, Visit
from nas.errors import DeviceError, UsageError
from nas.latency.profiler import make_header, profile
from nas.latency.table import LatencyTable
from nas.spaces.search_space import Space
from nas.utils.files import write_json
from nas.utils.reporting import Reporter

FORMAT = 1
FIELDS = {"format": int, "space": str, "runtime": str, "threads": int, "classes": int, "batches": int, "digests": dict}

RUN = """\
import os
import sys

if sys.version_info < (3, 9):
    sys.exit("run.py: error: Python 3.9 or later is needed, this one is %d.%d" % sys.version_info[:2])
os.chdir(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, "worker.zip")
from nas.devices.offline_runner import main  # noqa: E402

sys.exit(main())
"""

README = """\
Measures the layers of the search space '{space}' in {runtime} on this board.

    python3 run.py

It needs Python 3.9 or later, numpy and the package of {runtime}, and nothing else. It can be stopped and started
again at any time. When it has ended, copy this folder back to where it was written, and run there:

    nas profile --import THIS_FOLDER
"""


class RecordingWorker:
    """A worker that writes what it is asked into a folder, and answers as if every call took a millisecond."""

    def __init__(self, folder: Path, runtime: str, threads: int):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self.doing = "recording"
        self.digests: dict[str, str] = {}
        self.batches = 0
        self._folder = folder
        self._add({"runtime": runtime, "threads": threads})

    def __enter__(self) -> RecordingWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Record one batch."""
        for name, path in graph_files(graphs).items():
            if name not in self.digests:
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self._folder / name)
                self.digests[name] = digest(path)
        self._add(request(graphs, protocol, seed, there=True))
        self.batches += 1
        for _ in range(protocol.visits):
            for graph in graphs:
                costs = {"memory_bytes": 1.0} if graph.memory else {}  # asked for, so not asked for again
                yield Visit(graph.key, 0.0, (1.0,) * protocol.repeats, costs)

    def _add(self, content: dict[str, Any]) -> None:
        with (self._folder / REQUESTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


class ReplayWorker:
    """A worker that only tells what a board has recorded."""

    def __init__(self, folder: Path, settings: dict[str, Any], device: dict[str, Any], visits: Sequence[Visit]):
        self.settings, self.device, self.doing = settings, device, "reading"
        self._folder = folder
        self._visits: dict[str, list[Visit]] = defaultdict(list)
        for visit in visits:
            self._visits[visit.key].append(visit)

    def __enter__(self) -> ReplayWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def recorded(self, key: str) -> list[Visit]:
        """Return the visits of a graph, in order. Raises DeviceError where there are none."""
        if key not in self._visits:
            raise DeviceError(f"{self._folder}: graph {key} of this space was not measured")
        return self._visits[key]

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Yield the recorded visits of the graphs."""
        for graph in graphs:
            yield from self.recorded(graph.key)


def write_bundle(
    folder: Path, file: Path, space: Space, classes: int | None, runtime: str, threads: int,
    reporter: Reporter, protocol: Protocol | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder that measures `space`, which `file` describes, and return what bundle.json holds.

    Appears whole or not at all. Raises UsageError where `folder` is there already.
    """
    folder = new_folder(folder)
    header = make_header({}, runtime, "", threads)  # of a table that is thrown away
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        partial = Path(place) / "bundle"
        partial.mkdir()
        worker = RecordingWorker(partial, runtime, threads)
        layers = profile(space, LatencyTable(Path(place) / "table.jsonl", header), reporter, protocol, worker)
        shutil.copyfile(file, partial / file.name)
        (partial / SOURCES).write_bytes(worker_sources())
        for name in (REQUESTS, SOURCES, file.name):
            worker.digests[name] = digest(partial / name)
        about = {
            "format": FORMAT, "hwnas": __version__, "space": file.name, "classes": classes or 0, "runtime": runtime,
            "threads": threads, "environment": worker_environment(threads), "layers": layers,
            "batches": worker.batches, "digests": worker.digests,
        }  # fmt: skip
        (partial / "run.py").write_text(RUN, encoding="utf-8")
        (partial / "README.txt").write_text(README.format(space=file.stem, runtime=runtime), encoding="utf-8")
        write_json(partial / BUNDLE, about)
        partial.rename(folder)
    return about


def new_folder(folder: Path) -> Path:
    """Return `folder`. Raises UsageError where it is there already."""
    if folder.exists():
        raise UsageError(f"--bundle: must be a folder that is not there yet: '{folder}'")
    return folder


def read_bundle(folder: Path) -> tuple[dict[str, Any], ReplayWorker]:
    """Return what bundle.json holds, and a worker that answers from the folder.

    Raises DeviceError where the folder is no bundle, was changed, or was not measured to its end.
    """
    about = _about(folder)
    for name in (REQUESTS, about["space"]):
        path = folder / name
        if not path.is_file() or digest(path) != about["digests"].get(name):
            raise DeviceError(f"{path}: not as it was written")
    lines = _json_lines(folder / REQUESTS)
    path = folder / ANSWERS
    answers = iter(_json_lines(path) if path.is_file() else ())
    start = next(answers, None)
    if start is None:
        raise DeviceError(f"{path}: nothing was measured yet: run 'python3 run.py' in the folder, on the board")
    settings, device = start.get("settings"), start.get("device")
    if start.get("bundle") != bundle_id(folder) or not isinstance(settings, dict) or not isinstance(device, dict):
        raise DeviceError(f"{path}, line 1: not the answers of this bundle")
    if not {"processor", "cores"} <= set(device) or not {"runtime_version", "host"} <= set(settings):
        raise DeviceError(f"{path}, line 1: does not say on what was measured: {start}")
    visits: list[Visit] = []
    for number, batch in enumerate(lines[1:]):
        visits += _batch_visits(batch, answers, start, f"{path}, batch {number + 1}/{about['batches']}")
    return about, ReplayWorker(folder, settings, device, visits)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / BUNDLE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeviceError(f"{path}: no such file: --import takes a folder that --bundle wrote") from None
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}: cannot be read: {error}") from error
    for key, kind in FIELDS.items():
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            raise DeviceError(f"{path}: '{key}' must be there and of type {kind.__name__}")
    if about["format"] != FORMAT:
        raise DeviceError(f"{path}: format must be {FORMAT}: {about['format']}")
    if Path(about["space"]).name != about["space"]:
        raise DeviceError(f"{path}: space must be a file in the folder: {about['space']!r}")
    return dict(about)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file's lines; a last line without its end is one that a crash cut off."""
    found = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
            content = json.loads(line)
            if not isinstance(content, dict):
                raise DeviceError(f"{path}, line {number}: must be an object: {line[:80]}")
            found.append(content)
    except DeviceError:
        raise
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}, line {len(found) + 1}: cannot be read: {error}") from error
    return found


def _batch_visits(
    batch: dict[str, Any], answers: Iterator[dict[str, Any]], start: dict[str, Any], where: str
) -> list[Visit]:
    """Return the visits of one batch, each of its graphs as often as asked."""
    protocol = Protocol(**batch["protocol"])
    left = {graph["key"]: protocol.visits for graph in batch["graphs"]}
    visits = []
    for answer in answers:
        if "done" in answer:
            break
        if "bundle" in answer:  # run.py was started again
            if answer["bundle"] != start["bundle"] or answer.get("device") != start["device"]:
                raise DeviceError(f"{where}: measured on another device than the batches before")
            continue
        visit = _visit(answer, protocol.repeats, where)
        if not left.get(visit.key):
            raise DeviceError(f"{where}: a visit that was not asked for: {answer}")
        left[visit.key] -= 1
        visits.append(visit)
    if any(left.values()):
        raise DeviceError(f"{where}: is not finished: run 'python3 run.py' in the folder again, on the board")
    return visits


def _visit(answer: dict[str, Any], repeats: int, where: str) -> Visit:
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        key, at, ms = str(answer["key"]), float(answer["at"]), tuple(float(value) for value in answer["ms"])
        costs = {name: float(answer[name]) for name in COSTS if name in answer}
        right = len(ms) == repeats and math.isfinite(at) and all(0 <= value < math.inf for value in costs.values())
        if right and all(0 < value < math.inf for value in ms):
            return Visit(key, at, ms, costs)
    raise DeviceError(f"{where}: a visit needs 'key', 'at' and {repeats} finite 'ms' above zero: {answer}")
