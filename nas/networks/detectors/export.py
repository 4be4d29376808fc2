"""Export of a detector with its post-processing, beside the export of its network alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices.runtimes import find_runtime, run_once
from nas.errors import ExportError
from nas.networks.deployment import deploy
from nas.networks.detectors.post_processing import (
    SELECT,
    is_detector,
    layer_module,
    post_of,
    with_post_processing,
)

SETTINGS = ("coding", "candidates", "kept", "overlap", "steps", "least_score")
OUTPUTS = ("boxes", "scores", "classes", "count")
SCORE_TOLERANCE = 1e-3
"""Largest difference of sorted scores."""
BOX_TOLERANCE = 2e-3
"""Largest difference of a side of a box, as a share of the image."""
LEAST_MATCHED = 0.95
"""The share of boxes that must be the same. Boxes with equal scores may come in another order, or not at all."""
LEAST_SPREAD = 0.02
"""If the scores differ by less, as before a training, rounding decides which boxes come first: none are compared."""


def describe_detector(arch: Architecture) -> dict[str, Any]:
    """Return the entry of a card that describes the post-processing; {} for a network without one."""
    if not is_detector(arch):
        return {}
    post, _ = post_of(arch)
    select: Any = layer_module(post)
    return {
        SELECT: {
            **{name: getattr(select, name) for name in SETTINGS},
            "predictions": post.in_shape[0][0],  # type: ignore[index]
            "outputs": list(OUTPUTS),
            "boxes": "left, top, right, bottom in pixels of the network's input, the most likely first",
        }
    }


@torch.no_grad()
def check_scores(arch: Architecture, model: nn.Module, image: Tensor) -> dict[str, list[float]]:
    """Return {"scores": the scores of the boxes in an image}; {} for a network without post-processing."""
    if not is_detector(arch):
        return {}
    return {"scores": with_post_processing(arch, model)(image)[1][0].tolist()}


def write_detector(arch: Architecture, model: nn.Module, folder: Path, runtimes: Iterable[str]) -> list[str]:
    """Write detector.onnx, and the file of each runtime that has the operators; return what is to be reported.

    Raises ExportError if a runtime cannot express the network.
    """
    if not is_detector(arch):
        return []
    detector, notes = deploy(with_post_processing(arch, model)), []
    for name in runtimes:
        target = find_runtime(name)
        if not target.selects_boxes:
            notes.append(f"{name} has no operators for post-processing: model{target.suffix} is the network alone")
            continue
        target.export(detector, [torch.zeros(1, *arch.input_shape)], file_of(folder, name))
    return notes


def file_of(folder: Path, runtime: str) -> Path:
    """Return the path of an exported detector with post-processing."""
    return folder / f"detector{find_runtime(runtime).suffix}"


@torch.no_grad()
def check_detector(
    arch: Architecture, model: nn.Module, folder: Path, runtime: str, image: Tensor, outputs: list[Tensor]
) -> None:
    """Check that an exported detector returns what the post-processing makes of the exported network's outputs.

    Args:
        arch: The architecture.
        model: Its network.
        folder: The exported folder.
        runtime: The runtime of the files.
        image: The input (1, C, H, W).
        outputs: What the exported network returns for it; nothing is checked without them.

    Raises:
        ExportError: The outputs differ.
    """
    path = file_of(folder, runtime)
    if not outputs or not path.is_file():
        return
    whole = tuple(run_once(runtime, path, image))
    check_same(with_post_processing(arch, model).select(outputs), whole, arch.resolution, path)


def check_same(expected: tuple[Tensor, ...], found: tuple[Tensor, ...], resolution: int, path: Path) -> None:
    """Raise ExportError, which names `path`, unless two outputs of a post-processing are the same but for ties."""
    scores = [outputs[1][0].double().sort(descending=True).values for outputs in (expected, found)]
    # Suppressed boxes have a score of 0. Which of two boxes with almost equal scores suppresses the other is a matter
    # of rounding, and so is the number of boxes that are left.
    compared = (scores[0] > 0) & (scores[1] > 0)
    compared[0] = True
    difference = (scores[0] - scores[1])[compared].abs().max().item()
    if not difference <= SCORE_TOLERANCE:
        raise ExportError(f"its scores differ from the network's by {difference:.2g}", where=path)
    counted = scores[0][scores[0] > 0]
    if not len(counted) or (counted.max() - counted.min()).item() < LEAST_SPREAD:
        return
    share = matched_share(expected, found, resolution)
    if share < LEAST_MATCHED:
        raise ExportError(f"only {share:.0%} of its boxes are those of the network", where=path)


def matched_share(expected: tuple[Tensor, ...], found: tuple[Tensor, ...], resolution: int) -> float:
    """Return the share of the expected boxes of one image that are found, with the same class and score."""
    boxes, others = (outputs[0][0].double() for outputs in (expected, found))
    near = (boxes[:, None] - others[None]).abs().amax(2) <= BOX_TOLERANCE * resolution
    same = expected[2][0][:, None] == found[2][0][None].to(expected[2].dtype)
    close = (expected[1][0][:, None] - found[1][0][None]).abs() <= SCORE_TOLERANCE
    return float((near & same & close).any(1)[expected[1][0] > 0].double().mean())
