"""Export: write a network as a folder with model.py, weights, ONNX and a card, and check that it runs alone."""

from __future__ import annotations

import copy
import datetime
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import __version__
from nas.architecture import Architecture, Shape
from nas.devices.example_inputs import example_inputs
from nas.devices.runtimes import Runtime, export_inputs, find_runtime, is_exact, not_run, run_once
from nas.devices.runtimes.onnxruntime import OnnxForm, OnnxRuntime
from nas.errors import ExportError, RunError, reason
from nas.networks.block_schema import takes_maps
from nas.networks.deployment import deploy
from nas.networks.detectors.export import check_detector, check_scores, describe_detector, write_detector
from nas.networks.exported_folder import CARD, check_input, exported_fit, facts_of, load_exported, network_output
from nas.networks.exported_outputs import check_batches, check_close, check_python, check_reduced, compared_outputs
from nas.networks.forms import FORMS
from nas.networks.forms.base import Source
from nas.networks.network import in_channels, input_shapes, layer_slots, make_block, totals, trace
from nas.networks.onnx_graph import finish, metadata_of, onnx_form_of
from nas.networks.outputs import compared
from nas.networks.preprocessing import describe_preprocessing
from nas.networks.standalone.source import requirements, standalone_source
from nas.networks.standalone.state_names import exported_state
from nas.utils.files import size_of, write_json
from nas.utils.units import format_count

TOLERANCE = 1e-4
"""Largest allowed difference of an exported network's output, relative to the largest output."""
STRUCTURE_TOLERANCE = 1e-3
"""The same for the copy with calibrated batch norms, in which rounding errors grow more from layer to layer."""
CALIBRATION_IMAGES = 4
WEAK = 1e-3
"""An output that differs by less than this share between two images says nothing about the network's layers."""


def export_folder(
    arch: Architecture,
    model: nn.Module,
    folder: Path,
    runtime: str,
    facts: dict[str, Any],
    fit: str = "crop",
    keep_failed: bool = False,
    images: Tensor | None = None,
    onnx_form: OnnxForm | None = None,
    forms: Sequence[str] = (),
) -> dict[str, Any]:
    """Export a network. The folder appears, or is replaced, only after the exported files have been checked.

    The files are run on one image. If the network's output hardly depends on the image, as before a training, files
    of a copy whose batch norms are calibrated are checked too.

    Args:
        arch: The architecture.
        model: Its network with weights.
        folder: The folder to write.
        runtime: The runtime whose format to write in addition to ONNX.
        facts: Further entries of the card.
        fit: How images that are not square are fitted: a key of `FITS`.
        keep_failed: Whether to keep the weights and the card in `failed_folder(folder)` if the export fails.
        images: Normalized training images (N, C, H, W), for a runtime that does not compute in float32.
        onnx_form: The batch size and the operators of the ONNX file; None: a batch of 1.
        forms: Further forms to write: names in `FORMS`, or of runtimes.

    Returns:
        The card, as written to card.json.

    Raises:
        ExportError: The output of an exported file differs from the network's, or is useless in a lower precision.
        RunError: The folder exists and is not an exported network.
    """
    if folder.exists() and not (folder / CARD).is_file():
        raise RunError("exists and is not an exported network", where=folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    card = {**_card(arch, model, fit), **facts, **({"onnx": asdict(onnx_form)} if onnx_form else {})}
    try:
        _write_weights(model, partial, card)
        _write_and_check(arch, model, partial, runtime, forms, card, images)
        _move(partial, folder)
        if keep_failed:
            shutil.rmtree(failed_folder(folder), ignore_errors=True)
    except Exception as error:
        if keep_failed and (partial / CARD).is_file():
            raise _kept(partial, folder, error) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def _kept(partial: Path, folder: Path, error: Exception) -> ExportError:
    """Keep what a failed export has written, and return the error that names the place."""
    kept = failed_folder(folder)
    _move(partial, kept)
    retry = f"the same command tries again; after a change of the code, 'nas export {kept}' does"
    return ExportError(f"{reason(error)}; the weights are kept in '{kept}': {retry}")


def failed_folder(folder: Path) -> Path:
    """Return the folder that keeps the weights and the card of a network whose export to `folder` failed."""
    return folder.with_name(f"failed-{folder.name}")


def export_again(
    folder: Path, runtime: str, images_at: Callable[[int], Tensor | None] = lambda resolution: None
) -> dict[str, Any]:
    """Export the network that a failed export to `folder` has kept, and return the card. Raises as `export_folder`.

    Args:
        folder: The folder to write.
        runtime: The runtime.
        images_at: Returns the images of `export_folder` at a resolution.
    """
    arch, model, card = load_exported(failed_folder(folder))
    images, facts = images_at(arch.resolution), facts_of(card)
    return export_folder(arch, model, folder, runtime, facts, exported_fit(card), keep_failed=True, images=images)


def _move(partial: Path, folder: Path) -> None:
    """Put `partial` in the place of `folder`."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_and_check(
    arch: Architecture,
    model: nn.Module,
    folder: Path,
    runtime: str,
    forms: Sequence[str],
    card: dict[str, Any],
    images: Tensor | None,
) -> None:
    """Write all files and check them, also with other batch norms if the model's output is too weak to compare."""
    if needed := requirements(arch):
        card["requires"] = needed
        write_json(folder / CARD, card)
    runtimes = list(dict.fromkeys(["onnxruntime", runtime, *(name for name in forms if name not in FORMS)]))
    if not _is_telling(model, arch):
        structure = folder / "structure"
        structure.mkdir()
        calibrated = calibrate(model, arch.input_shape)
        checked = {**card, "check": _check_values(arch, calibrated)}
        _write_weights(calibrated, structure, checked)
        exact = [name for name in runtimes if is_exact(name)]
        _write(arch, calibrated, structure, exact, checked)
        _check(arch, calibrated, structure, exact, checked, STRUCTURE_TOLERANCE)
        shutil.rmtree(structure)
    _write(arch, model, folder, runtimes, card, images)
    _check(arch, model, folder, runtimes, card, TOLERANCE, images)
    card["forms"] = {name: _entry(folder, f"model{find_runtime(name).suffix}", not_run(name)) for name in runtimes}
    for name in (each for each in forms if each in FORMS):
        written = FORMS[name](Source(arch, model, folder, card))
        card["forms"][name] = _entry(folder, written.file, written.not_checked)
    write_json(folder / CARD, card)


def _entry(folder: Path, file: str, not_checked: str) -> dict[str, Any]:
    """Return what the card says of a form: its file, its size, and whether its output was compared."""
    checked = {"checked": False, "reason": not_checked} if not_checked else {"checked": True}
    return {"file": file, "bytes": size_of(folder / file), **checked}


@torch.no_grad()
def _is_telling(model: nn.Module, arch: Architecture) -> bool:
    """Whether a difference in a layer would show in the output: it depends on the image and is not tiny."""
    output = network_output(model, arch).double()
    other = compared(model(-check_input(arch.input_shape))).double()
    largest = output.abs().max().item()
    return largest > WEAK and (output - other).abs().max().item() > WEAK * largest


@torch.no_grad()
def calibrate(model: nn.Module, shape: Shape) -> nn.Module:
    """Return a copy in eval mode whose batch norms have the statistics of random images, so that no layer fades.

    The images have the shape (C, H, W).
    """
    model = copy.deepcopy(model).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        generator = torch.Generator().manual_seed(0)
        model(torch.randn(CALIBRATION_IMAGES, *shape, generator=generator))
    return model.eval()


def _check_values(arch: Architecture, model: nn.Module) -> dict[str, Any]:
    """Return the outputs of a network for the input of the check, of a detector also the scores of its boxes."""
    return {"output": network_output(model, arch).tolist(), **check_scores(arch, model, check_input(arch.input_shape))}


def _card(arch: Architecture, model: nn.Module, fit: str) -> dict[str, Any]:
    whole = totals(trace(arch))
    return {
        "architecture": arch.digest,
        "blocks": arch.to_dict(),
        "resolution": arch.input_size,
        "input": dict(zip(("channels", "height", "width"), arch.input_shape, strict=True)),
        "params": whole.params,
        "macs": whole.macs,
        "preprocessing": describe_preprocessing(fit, arch.input.channels),
        **describe_detector(arch),
        "check": {"input": "torch.linspace(-1, 1, C * H * W).reshape(1, C, H, W)", **_check_values(arch, model)},
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


def _write_weights(model: nn.Module, folder: Path, card: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in exported_state(model.state_dict()).items()}
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / CARD, card)


def _write(
    arch: Architecture,
    model: nn.Module,
    folder: Path,
    runtimes: Sequence[str],
    card: dict[str, Any],
    images: Tensor | None = None,
) -> None:
    title = f"Architecture {arch.digest}: {format_count(card['params'])} parameters, {format_count(card['macs'])} MACs"
    classes = metadata_of(card).get("classes", ())
    source = standalone_source(arch, f"{title} at {arch.input_size} px.", card["preprocessing"]["fit"], classes)
    (folder / "model.py").write_text(source, encoding="utf-8")
    deployed = deploy(model)
    for name in runtimes:
        target = find_runtime(name)
        path, inputs = folder / f"model{target.suffix}", export_inputs(target, arch.input_shape, images)
        if name == "onnxruntime":
            target = OnnxRuntime(form=onnx_form_of(card))
        elif path.exists():  # another runtime that reads ONNX files
            continue
        try:
            target.export(deployed, inputs, path)
        except ExportError as error:
            raise ExportError(f"{error}{_lacking_layer(arch, target)}") from error
        if path.suffix == ".onnx":
            finish(path, metadata_of(card))
    if notes := write_detector(arch, model, folder, runtimes):
        card["notes"] = notes
        write_json(folder / CARD, card)
    for path in folder.iterdir():  # some libraries write files that only the owner can read
        path.chmod((folder / "card.json").stat().st_mode)


def _lacking_layer(arch: Architecture, target: Runtime) -> str:
    """Return in words the first layer that a runtime cannot express; "" if each of them alone can be."""
    with tempfile.TemporaryDirectory(prefix="nas-layer-") as folder:
        for place, layer in zip(layer_slots(arch), trace(arch), strict=True):
            if takes_maps(layer.spec.op):
                continue
            inputs = [torch.from_numpy(each) for each in example_inputs([(1, *shape) for shape in input_shapes(layer)])]
            module = deploy(make_block(layer.spec, in_channels(layer)).eval())
            try:
                target.export(module, inputs, Path(folder) / f"layer{target.suffix}")
            except ExportError:
                return f"; the first layer that it cannot express is in {place}: {layer.spec}"
    return ""


def _check(
    arch: Architecture,
    model: nn.Module,
    folder: Path,
    runtimes: Sequence[str],
    card: dict[str, Any],
    tolerance: float,
    images: Tensor | None = None,
) -> None:
    check_python(folder / "model.py")
    for name in runtimes:
        if not is_exact(name):
            some = torch.from_numpy(example_inputs([(CALIBRATION_IMAGES, *arch.input_shape)])[0])
            path, are_real = folder / f"model{find_runtime(name).suffix}", images is not None
            check_reduced(model, path, name, some if images is None else images, are_real)
            continue
        if check_batches(model, folder, name, onnx_form_of(card), check_input(arch.input_shape), tolerance):
            continue
        outputs = _check_runtime(folder, name, arch, torch.tensor(card["check"]["output"]), tolerance)
        check_detector(arch, model, folder, name, check_input(arch.input_shape), outputs)


def _check_runtime(folder: Path, name: str, arch: Architecture, expected: Tensor, tolerance: float) -> list[Tensor]:
    """Return the outputs of the exported file; none if it cannot be run here. Raises ExportError if they differ."""
    path = folder / f"model{find_runtime(name).suffix}"
    tensors = run_once(name, path, check_input(arch.input_shape))
    if not tensors:
        return []
    check_close(compared_outputs(tensors), expected, tolerance, path)
    return tensors
