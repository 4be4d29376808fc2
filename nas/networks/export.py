"""Export: write a network as a folder with model.py, weights, ONNX and a card, and check that it runs alone."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas import __version__
from nas.architecture import Architecture
from nas.devices.runtimes import find_runtime, make_runtime
from nas.errors import DeviceError, ExportError, RunError, one_line
from nas.networks.network import build, deploy, totals, trace
from nas.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nas.networks.standalone_source import standalone_source
from nas.utils.files import write_json
from nas.utils.units import format_count

TOLERANCE = 1e-4
"""Largest allowed difference of an exported network's output, relative to the largest output (at least 1)."""


def export_folder(
    arch: Architecture, model: nn.Module, folder: Path, runtime: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Export a network. The folder appears, or is replaced, only after the exported files have been checked.

    Args:
        arch: The architecture.
        model: Its network with weights.
        folder: The folder to write.
        runtime: The runtime whose format to write in addition to ONNX.
        facts: Further entries of the card.

    Returns:
        The card, as written to card.json.

    Raises:
        ExportError: The output of an exported file differs from the network's.
        RunError: The folder exists and is not an exported network.
    """
    if folder.exists() and not (folder / "card.json").is_file():
        raise RunError("exists and is not an exported network", where=folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        output = model(check_input(arch.resolution))
    card = {**_card(arch, output), **facts}
    try:
        _write(arch, model, partial, runtime, card)
        _check_python(partial)
        for name in dict.fromkeys(["onnxruntime", runtime]):
            _check_runtime(partial, name, arch, output)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def exported_in(folder: Path) -> Path:
    """Return the folder of a run's winner, or `folder` itself. Raises RunError if a run has several winners."""
    if (folder / "model").is_dir():
        return folder / "model"
    several = sorted(path.name for path in folder.glob("model-*") if path.is_dir())
    if several and not (folder / "card.json").exists():
        winners = ", ".join(str(folder / name) for name in several)
        raise RunError(f"has one winner per goal; give one of them: {winners}", where=folder)
    return folder


def load_exported(folder: Path) -> tuple[Architecture, nn.Module, dict[str, Any]]:
    """Return architecture, network and card of an exported network. Raises RunError if the folder is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "card.json").is_file():
        raise RunError("not an exported network: it has neither card.json nor, as a finished run, model/", where=folder)
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        arch = Architecture.from_dict(card["blocks"], str(folder / "card.json"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise RunError(f"not an exported network: {one_line(error)}", where=folder) from error
    model = build(arch)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(one_line(error), where=folder / "model.safetensors") from error
    return arch, model.eval(), card


def check_input(resolution: int) -> Tensor:
    """Return the input for the check: (1, 3, R, R), from -1 to 1. The card holds the network's output for it."""
    return torch.linspace(-1, 1, 3 * resolution**2).reshape(1, 3, resolution, resolution)


def _card(arch: Architecture, output: Tensor) -> dict[str, Any]:
    whole = totals(trace(arch))
    return {
        "architecture": arch.digest,
        "blocks": arch.to_dict(),
        "resolution": arch.resolution,
        "params": whole.params,
        "macs": whole.macs,
        "preprocessing": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "scale": "RGB / 255"},
        "check": {"input": "torch.linspace(-1, 1, 3 * R * R).reshape(1, 3, R, R)", "output": output.tolist()},
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    names = ("torch", "torchvision", "optuna", "onnxruntime", "numpy", "scikit-learn")
    return {
        "hwnas": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _write(arch: Architecture, model: nn.Module, folder: Path, runtime: str, card: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    title = f"Architecture {arch.digest}: {format_count(card['params'])} parameters, {format_count(card['macs'])} MACs"
    (folder / "model.py").write_text(standalone_source(arch, f"{title} at {arch.resolution} px."), encoding="utf-8")
    write_json(folder / "card.json", card)
    deployed, inputs = deploy(model), [torch.zeros(1, 3, arch.resolution, arch.resolution)]
    for name in dict.fromkeys(["onnxruntime", runtime]):
        target = find_runtime(name)
        target.export(deployed, inputs, folder / f"model{target.suffix}")
    for path in folder.iterdir():  # some libraries write files that only the owner can read
        path.chmod((folder / "card.json").stat().st_mode)


def _check_python(folder: Path) -> None:
    """Run the exported model.py as a user would: in a new process that cannot import this package."""
    command = [sys.executable, "-I", str((folder / "model.py").resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportError(f"does not run: {last}", where=folder / "model.py")


def _check_runtime(folder: Path, name: str, arch: Architecture, expected: Tensor) -> None:
    try:
        runtime = make_runtime(name)
    except DeviceError:  # only the target device has the library
        return
    path = folder / f"model{runtime.suffix}"
    outputs = runtime.load(str(path), [check_input(arch.resolution).numpy()], 1)()
    if not outputs:  # the null runtime computes nothing
        return
    difference = (torch.as_tensor(np.array(outputs[0])) - expected).abs().max().item()
    if difference > TOLERANCE * max(1.0, expected.abs().max().item()):
        raise ExportError(f"its output differs from the network's by {difference:.2g}", where=path)
