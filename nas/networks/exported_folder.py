"""Exported folders: find, load and describe what an export has written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture, Shape
from nas.errors import RunError, SpaceError, located, one_line
from nas.networks.blocks import is_ours, module_file
from nas.networks.detectors.post_processing import SELECT
from nas.networks.exported_outputs import SMALLEST_DIFFERENCE
from nas.networks.network import build
from nas.networks.outputs import compared
from nas.networks.preprocessing import FITS
from nas.networks.standalone.state_names import internal_state

CARD = "card.json"
CODE_TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest one, from what the card of an exported network says."""


def exported_in(folder: Path) -> Path:
    """Return the folder of a run's winner, or `folder` itself. Raises RunError if a run has several winners."""
    if (folder / "model").is_dir():
        return folder / "model"
    several = sorted(path.name for path in folder.glob("model-*") if path.is_dir())
    if several and not (folder / CARD).exists():
        winners = ", ".join(str(folder / name) for name in several)
        raise RunError(f"has one winner per goal; give one of them: {winners}", where=folder)
    return folder


def load_exported(folder: Path) -> tuple[Architecture, nn.Module, dict[str, Any]]:
    """Return architecture, network and card of an exported network. Raises RunError if the folder is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CARD).is_file():
        raise RunError("not an exported network: it has neither card.json nor, as a finished run, model/", where=folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        arch = Architecture.from_dict(card["blocks"], str(folder / CARD))
        weights = load_file(folder / "model.safetensors")
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise RunError(f"not an exported network: {one_line(error)}", where=folder) from error
    check_origin(arch, folder)
    with located(folder / CARD):
        model = build(arch)
    try:
        model.load_state_dict(internal_state(weights))
    except RuntimeError as error:
        raise RunError(one_line(error), where=folder / "model.safetensors") from error
    _check_code(arch, model.eval(), folder, card)
    return arch, model, card


def _check_code(arch: Architecture, model: nn.Module, folder: Path, card: dict[str, Any]) -> None:
    """Check that blocks of other packages still compute what the card says. Raises RunError if their code changed."""
    ops = sorted({spec.op for spec in (*arch.blocks(), arch.head) if not is_ours(spec.op)})
    check = card.get("check")
    if not ops or not isinstance(check, Mapping) or "output" not in check:
        return
    output, expected = network_output(model, arch).double(), torch.tensor(check["output"], dtype=torch.float64)
    allowed = CODE_TOLERANCE * expected.abs().max().item() + SMALLEST_DIFFERENCE
    if output.shape != expected.shape or not torch.allclose(output, expected, 0.0, allowed, equal_nan=True):
        rule = "does not compute what it did when this network was trained: its code has changed since"
        raise RunError(rule, where=folder / CARD, key="block", value=", ".join(ops))


def exported_fit(card: Mapping[str, Any]) -> str:
    """Return the fit of images in a card. Older cards do not name it: their images were cropped."""
    preprocessing = card.get("preprocessing")
    fit = preprocessing.get("fit") if isinstance(preprocessing, Mapping) else None
    return fit if fit in FITS else "crop"


def check_origin(arch: Architecture, folder: Path) -> None:
    """Raise SpaceError if a block's module lies in `folder`, which names it: code that comes with a file is not run.

    A block `module:Class` is imported only from an installed package or the current directory. The whole run folder
    counts if `folder` is the model in it.
    """
    if (folder.resolve().parent / "result.json").is_file():
        folder = folder.resolve().parent
    for op in dict.fromkeys(spec.op for spec in (*arch.blocks(), arch.head)):
        file = module_file(op)
        if file and file.resolve().is_relative_to(folder.resolve()):
            raise SpaceError("is not imported from the folder that names it", where=folder, key="block", value=op)


def facts_of(card: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a card that a new export does not write itself."""
    rewritten = (
        "architecture",
        "blocks",
        "check",
        "forms",
        "macs",
        "notes",
        "onnx",
        "params",
        "preprocessing",
        "requires",
        SELECT,
    )
    return {key: value for key, value in card.items() if key not in (*rewritten, "resolution", "input", "versions")}


def check_input(shape: Shape) -> Tensor:
    """Return the input for the check: (1, C, H, W), from -1 to 1. The card holds the network's output for it."""
    return torch.linspace(-1, 1, prod(shape)).reshape(1, *shape)


@torch.no_grad()
def network_output(model: nn.Module, arch: Architecture) -> Tensor:
    """Return what a check compares of a network's output for the input of the check."""
    return compared(model(check_input(arch.input_shape)))
