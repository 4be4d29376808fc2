"""Offline bundles: folders that measure a space on a device without a connection, and their import into a table.

Writing and reading a bundle run the same profiling code as a live measurement: with a worker that records its requests,
and with a worker that replays the device's answers. Importing executes nothing from the folder.
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
from nas.devices.client import Graph, batch_request, graph_files, worker_environment
from nas.devices.offline_runner import ANSWERS, BUNDLE, REQUESTS, SOURCES, bundle_id, digest
from nas.devices.ssh import worker_sources
from nas.devices.timing import COSTS, Protocol, Sample
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
Measures the latency of the layers of the search space '{space}' in {runtime} on this device.

    python3 run.py

It needs Python 3.9 or later, numpy and the package of {runtime}. You can stop it at any time; the same command
continues. When it is finished, copy this folder back and run there:

    nas profile --import THIS_FOLDER
"""


class RecordingWorker:
    """A worker that writes its requests into a folder and returns samples of 1 ms."""

    def __init__(self, folder: Path, runtime: str, threads: int):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self.activity = "recording"
        self.digests: dict[str, str] = {}
        self.batches = 0
        self._folder = folder
        self._add({"runtime": runtime, "threads": threads})

    def __enter__(self) -> RecordingWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Sample]:
        """Record one batch."""
        for name, path in graph_files(graphs).items():
            if name not in self.digests:
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self._folder / name)
                self.digests[name] = digest(path)
        self._add(batch_request(graphs, protocol, seed, on_device=True))
        self.batches += 1
        for _ in range(protocol.visits):
            for graph in graphs:
                costs = {"memory_bytes": 1.0} if graph.memory else {}  # present, so that it is requested once only
                yield Sample(graph.key, 0.0, (1.0,) * protocol.repeats, costs)

    def _add(self, content: dict[str, Any]) -> None:
        with (self._folder / REQUESTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


class ReplayWorker:
    """A worker that returns the samples that a device recorded."""

    def __init__(self, folder: Path, settings: dict[str, Any], device: dict[str, Any], samples: Sequence[Sample]):
        self.settings, self.device, self.activity = settings, device, "reading"
        self._folder = folder
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            self._samples[sample.key].append(sample)

    def __enter__(self) -> ReplayWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def recorded(self, key: str) -> list[Sample]:
        """Return the samples of a graph, in order. Raises DeviceError if there are none."""
        if key not in self._samples:
            raise DeviceError(f"graph {key} of this space was not measured", where=self._folder)
        return self._samples[key]

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Sample]:
        """Yield the recorded samples of the graphs."""
        for graph in graphs:
            yield from self.recorded(graph.key)


def write_bundle(
    folder: Path,
    file: Path,
    space: Space,
    classes: int | None,
    runtime: str,
    threads: int,
    reporter: Reporter,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """Write the folder that a device uses to measure `space`, completely or not at all.

    Args:
        folder: The folder to create.
        file: The YAML file of the space.
        space: The space to measure.
        classes: Number of output classes; None for the space's own.
        runtime: Name of the runtime.
        threads: Number of runtime threads.
        reporter: Shows the progress.
        protocol: Settings of the measurement.

    Returns:
        The content of bundle.json.

    Raises:
        UsageError: `folder` exists.
    """
    folder = new_folder(folder)
    header = make_header({}, runtime, "", threads)  # of a temporary table
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
            "format": FORMAT,
            "hwnas": __version__,
            "space": file.name,
            "classes": classes or 0,
            "runtime": runtime,
            "threads": threads,
            "environment": worker_environment(threads),
            "layers": layers,
            "batches": worker.batches,
            "digests": worker.digests,
        }
        (partial / "run.py").write_text(RUN, encoding="utf-8")
        (partial / "README.txt").write_text(README.format(space=file.stem, runtime=runtime), encoding="utf-8")
        write_json(partial / BUNDLE, about)
        partial.rename(folder)
    return about


def new_folder(folder: Path) -> Path:
    """Return `folder`. Raises UsageError if it exists."""
    if folder.exists():
        raise UsageError("the folder must not exist yet", key="bundle", value=str(folder))
    return folder


def read_bundle(folder: Path) -> tuple[dict[str, Any], ReplayWorker]:
    """Return the content of bundle.json, and a worker that replays the folder's samples.

    Raises:
        DeviceError: The folder is not a bundle, was modified, or is not measured completely.
    """
    about = _read_about(folder)
    for name in (REQUESTS, about["space"]):
        path = folder / name
        if not path.is_file() or digest(path) != about["digests"].get(name):
            raise DeviceError("was modified after the bundle was written (checksum mismatch)", where=path)
    lines = _json_lines(folder / REQUESTS)
    path = folder / ANSWERS
    answers = iter(_json_lines(path) if path.is_file() else ())
    start = next(answers, None)
    if start is None:
        raise DeviceError("not measured yet; run 'python3 run.py' in the folder, on the device", where=path)
    settings, device = start.get("settings"), start.get("device")
    if start.get("bundle") != bundle_id(folder) or not isinstance(settings, dict) or not isinstance(device, dict):
        raise DeviceError("the answers belong to another bundle", where=f"{path}, line 1")
    if not {"processor", "cores"} <= set(device) or not {"runtime_version", "host"} <= set(settings):
        raise DeviceError("must have the device and the settings of the worker", where=f"{path}, line 1", value=start)
    samples: list[Sample] = []
    for number, batch in enumerate(lines[1:]):
        samples += _batch_samples(batch, answers, start, f"{path}, batch {number + 1}/{about['batches']}")
    return about, ReplayWorker(folder, settings, device, samples)


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / BUNDLE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeviceError("no such file; --import needs a folder that --bundle wrote", where=path) from None
    except (OSError, ValueError) as error:
        raise DeviceError(f"cannot be read: {error}", where=path) from error
    for key, kind in FIELDS.items():
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            raise DeviceError(f"must exist and be of type {kind.__name__}", where=path, key=key)
    if about["format"] != FORMAT:
        raise DeviceError(f"must be {FORMAT}", where=path, key="format", value=about["format"])
    if Path(about["space"]).name != about["space"]:
        raise DeviceError("must be a file in the folder", where=path, key="space", value=about["space"])
    return dict(about)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; a last line without its end is dropped, a crash cut it off."""
    found = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
            content = json.loads(line)
            if not isinstance(content, dict):
                raise DeviceError("must be an object", where=f"{path}, line {number}", value=line[:80])
            found.append(content)
    except DeviceError:
        raise
    except (OSError, ValueError) as error:
        raise DeviceError(f"cannot be read: {error}", where=f"{path}, line {len(found) + 1}") from error
    return found


def _batch_samples(
    batch: dict[str, Any], answers: Iterator[dict[str, Any]], start: dict[str, Any], where: str
) -> list[Sample]:
    """Return the samples of one batch: `protocol.visits` for each graph."""
    protocol = Protocol(**batch["protocol"])
    missing = {graph["key"]: protocol.visits for graph in batch["graphs"]}
    samples = []
    for answer in answers:
        if "done" in answer:
            break
        if "bundle" in answer:  # run.py was started again
            if answer["bundle"] != start["bundle"] or answer.get("device") != start["device"]:
                raise DeviceError("measured on a different device than the previous batches", where=where)
            continue
        sample = _parse_sample(answer, protocol.repeats, where)
        if not missing.get(sample.key):
            raise DeviceError("this sample was not requested", where=where, value=answer)
        missing[sample.key] -= 1
        samples.append(sample)
    if any(missing.values()):
        raise DeviceError("not finished; run 'python3 run.py' in the folder again, on the device", where=where)
    return samples


def _parse_sample(answer: dict[str, Any], repeats: int, where: str) -> Sample:
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        key, at, ms = str(answer["key"]), float(answer["at"]), tuple(float(value) for value in answer["ms"])
        costs = {name: float(answer[name]) for name in COSTS if name in answer}
        right = len(ms) == repeats and math.isfinite(at) and all(0 <= value < math.inf for value in costs.values())
        if right and all(0 < value < math.inf for value in ms):
            return Sample(key, at, ms, costs)
    raise DeviceError(f"needs 'key', 'at' and {repeats} finite 'ms' above zero", where=where, value=answer)
