"""`nas profile --verify`: checks that a latency table still predicts the latency of its device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.utils.reporting import Reporter

if TYPE_CHECKING:
    from nas.latency.table import LatencyTable
    from nas.spaces.search_space import Space


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure new random networks on the table's device and compare them with the table's predictions.

    Raises:
        TableError: The table is published, or was measured on another device or runtime.
    """
    from nas.errors import TableError
    from nas.latency.catalog import open_named
    from nas.latency.profiler import table_header
    from nas.latency.published import is_published
    from nas.latency.verification import verify

    device = args.device or "local"
    table = open_named(args.verify, "--verify")
    if is_published(table):
        raise TableError("is a published table; its device is not available to verify it", where=table.path)
    here = table_header(table.header["runtime"], table.header["threads"], device)
    differences = table.differences(here)
    words = "; ".join(differences.values())
    if set(differences) - {"runtime_version"}:
        raise TableError(f"{words}; verify it on its own device", where=table.path)
    if differences:
        reporter.warn(f"{table.path}: {words}")
    space = _space(args.space, table)
    verification = verify(space, table, reporter, device=device)
    return {"table": str(table.path), "space": space.name, **verification.to_dict()}


def _space(name: str | None, table: LatencyTable) -> Space:
    """Return the space that the table is calibrated for, with its number of classes; `name` overrides the space."""
    from nas.errors import UsageError
    from nas.spaces.yaml_format import load_space, space_names

    name = name or next((key.partition("@")[0] for key in table.certificates), "mnasnet")
    if not Path(name).is_file() and name not in space_names():
        raise UsageError(f"{table.path} was made for '{name}'; give the file of that space as --space", key="verify")
    space = _as_measured(load_space(name), table)
    heads = [network.arch.head.kwargs for network in table.networks if network.space == space.key]
    return space.for_classes(int(heads[-1]["num_classes"])) if heads and "num_classes" in heads[-1] else space


def _as_measured(space: Space, table: LatencyTable) -> Space:
    """Return the space at the resolution that the table is calibrated for: a search may have chosen another one."""
    from nas.errors import SpaceError
    from nas.spaces.resolutions import with_sizes

    for key in () if space.key in table.certificates else reversed(table.certificates):
        archs = [network.arch for network in table.networks if network.space == key]
        sizes = {arch.resolution: arch.input_size for arch in archs}
        try:
            measured = with_sizes(space, [sizes[height] for height in sorted(sizes)])
        except SpaceError:
            continue
        if measured.key == key:
            return measured
    return space


def print_result(result: dict[str, Any]) -> None:
    """Print the prediction errors on the new networks and the verdict."""
    from nas.latency.calibration import Certificate

    print(f"table    {result['table']}")
    print(f"accuracy {Certificate.from_dict(result['certificate'])}")
    print(f"factor   {result['factor']:.3f} (measured / predicted)")
    print(f"verdict  {result['verdict']}")
