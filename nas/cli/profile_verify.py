"""`nas profile --verify`: whether a latency table still holds."""

from __future__ import annotations

import argparse
from typing import Any

from nas.progress import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure fresh networks of the table's space on its device, and return how far it is from them."""
    from nas.errors import TableError
    from nas.profiler import table_header
    from nas.published import is_published
    from nas.space_file import load_space
    from nas.tables import open_named
    from nas.verify import verify

    device = args.device or "local"
    table = open_named(args.verify, "--verify")
    if is_published(table):
        raise TableError(f"{table.path}: others measured it: there is nothing here to verify it by")
    here = table_header(table.header["runtime"], table.header["threads"], device)
    if differences := table.differences(here):
        raise TableError(f"{table.path}: {'; '.join(differences.values())}: it can be verified there only")
    space = load_space(args.space or next(iter(table.certificates), "mnasnet"))
    verification = verify(space, table, reporter, device=device)
    return {"table": str(table.path), "space": space.name, **verification.to_dict()}


def print_result(result: dict[str, Any]) -> None:
    """Print the errors on fresh networks and the verdict."""
    from nas.calibration import Certificate

    print(f"table    {result['table']}")
    print(f"fresh    {Certificate.from_dict(result['certificate'])}")
    print(f"factor   {result['factor']:.3f} (measured / predicted)")
    print(f"verdict  {result['verdict']}")
