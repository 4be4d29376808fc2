"""Block check: runs the copied source of blocks of other packages, before a training depends on its export."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from nas.errors import ExportError
from nas.networks.block_schema import takes_maps
from nas.networks.blocks import is_ours
from nas.networks.network import Layer, in_channels, input_shapes, make_block
from nas.networks.standalone.bundle import SourceBundle, Unit
from nas.networks.standalone.network_class import block_call
from nas.networks.standalone.source import add_block, make_bundle, spaced

VARIANTS = 3
"""How many different layers of each block are checked."""
DRIVER = """
import json, sys, traceback, types
import torch

source, cases = sys.argv[1:]
module = sys.modules["model"] = types.ModuleType("model")
reports = []

def equal(output, expected):
    if isinstance(expected, torch.Tensor):
        output, expected = [output], [expected]
    pairs = zip(output, expected)
    return len(output) == len(expected) and all(
        torch.allclose(own, other, 1e-4, 1e-4 * other.abs().max().item(), equal_nan=True) for own, other in pairs
    )

def report(error, block):
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    message = f"{type(error).__name__}: {error}"
    reports.append({"block": block, "message": message, "line": frames[-1] if frames else 0})

try:
    with open(source, encoding="utf-8") as file:
        exec(compile(file.read(), source, "exec"), module.__dict__)
except Exception as error:
    report(error, None)
else:
    for case in torch.load(cases, weights_only=True):
        try:
            block = eval(case["call"], module.__dict__)
            block.load_state_dict(case["state"])
            with torch.no_grad():
                output = block.eval()(case["input"])
            if not equal(output, case["output"]):
                raise ValueError("its output differs from the block's")
        except Exception as error:
            report(error, case["block"])
print(json.dumps(reports))
"""


def check_blocks(layers: Iterable[Layer]) -> None:
    """Check that blocks of other packages run without them, as exported networks do. Other blocks cost nothing.

    One process runs the copied source of all these blocks and compares the outputs.

    Args:
        layers: The layers of a network or of a whole space. Up to VARIANTS layers of each block are checked.

    Raises:
        ExportError: The source of a block cannot be copied, fails, or computes something else. The error names the
            block, its file and the line.
    """
    chosen = _chosen(layers)
    if not chosen:
        return
    ops = list(dict.fromkeys(layer.spec.op for layer in chosen))
    bundle = make_bundle(ops)
    names = {op: add_block(bundle, op) for op in ops}
    with tempfile.TemporaryDirectory() as folder:
        source, cases, driver = (Path(folder) / name for name in ("model.py", "cases.pt", "check.py"))
        text, lines = _file(bundle)
        source.write_text(text, encoding="utf-8")
        driver.write_text(DRIVER, encoding="utf-8")
        torch.save([_case(layer, names) for layer in chosen], cases)
        command = [sys.executable, "-I", str(driver), str(source), str(cases)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    try:
        reports: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        reports = [{"block": None, "message": last, "line": 0}]
    if reports:
        raise _error(reports[0], ops, lines)


def _chosen(layers: Iterable[Layer]) -> list[Layer]:
    """Return some layers of each block of other packages, with different arguments."""
    chosen: dict[str, dict[Any, Layer]] = {}
    for layer in layers:
        if not is_ours(layer.spec.op):
            found = chosen.setdefault(layer.spec.op, {})
            if len(found) < VARIANTS:
                found.setdefault(layer.spec.args, layer)
    return [layer for found in chosen.values() for layer in found.values()]


def _case(layer: Layer, names: dict[str, str]) -> dict[str, Any]:
    """Return what the other process needs to check one block: its call, weights, input and output."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        block = make_block(layer.spec, in_channels(layer)).eval()
        maps = [torch.randn(1, *shape) for shape in input_shapes(layer)]
        given: Any = maps if takes_maps(layer.spec.op) else maps[0]
        output = block(given)
    state = dict(block.state_dict())
    return {"block": layer.spec.op, "call": block_call(layer, names), "state": state, "input": given, "output": output}


def _file(bundle: SourceBundle) -> tuple[str, list[tuple[int, Unit]]]:
    """Return the file with the copied source, and the first line of each unit in it."""
    text, lines = f"from __future__ import annotations\n\n{bundle.import_lines()}\n", []
    for unit, source in zip(bundle.ordered(), spaced(unit.text for unit in bundle.ordered()), strict=True):
        text += "\n" + source[: len(source) - len(source.lstrip("\n"))]
        lines.append((text.count("\n") + 1, unit))
        text += source.lstrip("\n") + "\n"
    return text, lines


def _error(report: dict[str, Any], ops: list[str], lines: list[tuple[int, Unit]]) -> ExportError:
    blocks = [report["block"]] if report["block"] else ops
    where = ", ".join(f"block '{op}'" for op in blocks)
    found = [(start, unit) for start, unit in lines if start <= report["line"]]
    if found:
        start, unit = found[-1]
        where += f": {unit.source.file}, line {unit.first_line + (report['line'] - start) * unit.is_verbatim}"
    return ExportError(f"its source, copied into a file without its package, fails: {report['message']}", where=where)
