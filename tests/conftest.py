"""What the tests share: a small space, a null-runtime table, and where the reference material lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: threads of two workers would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml
from hypothesis import HealthCheck, settings

from nas.latency.profiler import default_table_path, profile, table_header
from nas.latency.table import LatencyTable
from nas.networks.network import canonical
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import parse_space
from nas.utils.reporting import Reporter
from tests.helpers.this_process import ThisProcess

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nas", settings.get_profile("explore"), derandomize=True)
settings.load_profile("nas")

SHARED = Path(__file__).parent.parent.parent / "shared"

TINY_SPACE = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - block: [separable, {op: mbconv, expand_ratio: [2, 3]}, {op: osa, mid_channels: 8, num_layers: [1, 2]}]
    depth: [1, 2]
    out_channels: [12, 16]
    stride: 2
  - {block: mbconv, depth: [0, 1], out_channels: 24, kernel_size: [3, 5], skip: [none, identity]}
head: {block: classifier, hidden_channels: 16}
proxy: {resolution: 8, epochs: 1, images: 200}
final: {epochs: 1, images: 100}
"""


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tables and data of the tests out of the user's cache."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def calibrate_by_few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables be calibrated by six networks and checked by four."""
    monkeypatch.setattr("nas.latency.calibration_networks.CALIBRATING", 6)
    monkeypatch.setattr("nas.latency.calibration_networks.CERTIFYING", 4)
    monkeypatch.setattr("nas.latency.calibration_networks.SMALL_MACS", 0.0)


@pytest.fixture(autouse=True)
def few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate by few networks; who tests calibration itself asks for more."""
    calibrate_by_few_networks(monkeypatch)


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Leave out `os.fsync`, a few milliseconds for each row: it protects from a power failure, which no test causes.

    Processes that tests start and kill call it.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the null runtime's table of the tiny space."""
    folder = tmp_path_factory.mktemp("warm")
    space = parse_space("tiny", yaml.safe_load(TINY_SPACE), "tiny.yaml").for_classes(10)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NAS_CACHE", str(folder))
        calibrate_by_few_networks(monkeypatch)
        header = table_header("null", 1, "local")
        profile(space, LatencyTable.open(default_table_path(header), header), Reporter(quiet=True))
    return folder


@pytest.fixture
def warm_cache(private_cache: Path, tiny_table: Path) -> None:
    """Start with the null runtime's table of the tiny space, so that a search need not measure it."""
    shutil.copytree(tiny_table, private_cache)


@pytest.fixture(autouse=True)
def no_published_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no shipped network be the reference of a tiny search: its training takes longer than the search."""
    monkeypatch.setattr("nas.searching.against.choice.published_networks", lambda space, resolution: [])


@pytest.fixture(autouse=True)
def exported_file_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check exported files in this process; the tests of exports override this and start the real one."""
    monkeypatch.setattr("nas.networks.exported_outputs.subprocess", ThisProcess)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Give every test the same random weights and inputs in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Small networks are slower with many threads, and other tests may run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The YAML of a space whose search takes seconds."""
    return TINY_SPACE


@pytest.fixture
def tiny_space(tmp_path: Path) -> Path:
    """The YAML file of a space whose search takes seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SPACE, encoding="utf-8")
    return path


@pytest.fixture
def shared() -> Path:
    """The reference material beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference material in {SHARED}")
    return SHARED


@pytest.fixture
def without_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `nas search` end when its candidates are evaluated: its result is that of the run alone."""
    monkeypatch.setattr("nas.searching.job.find_winners", lambda search: ())


@pytest.fixture
def write_accuracies() -> Callable[[Path, Space], None]:
    """Write a table of made-up accuracies of every network of a space, each by its digest."""

    def write(path: Path, space: Space) -> None:
        domain = encode_space(space, lambda layer: 1.0)
        networks = {canonical(space.decode(domain.decode(row))).digest for row in domain.all_rows()}
        rows = [f"{digest},{int(digest[:4], 16) / 2**16}" for digest in sorted(networks)]
        path.write_text("architecture,accuracy\n" + "\n".join(rows), encoding="utf-8")

    return write
