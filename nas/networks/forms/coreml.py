"""Core ML, for Apple's devices. coremltools converts on every system; only macOS can run the result."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator
from typing import Any

import torch

from nas.devices.runtimes.support import converting, exported_program, installed
from nas.networks.deployment import deploy
from nas.networks.exported_folder import check_input
from nas.networks.exported_outputs import check_close, compared_outputs
from nas.networks.forms.base import Source, Written
from nas.networks.outputs import compared

TOLERANCE = 1e-2
"""Core ML computes in float16."""


def write_core_ml(source: Source) -> Written:
    """Core ML for iOS 16 and macOS 13, in float16, as model.mlpackage; needs coremltools.

    Raises ExportError if the network cannot be expressed, DeviceError without coremltools.
    """
    path = source.folder / "model.mlpackage"
    with _without_logs(), converting("coreml"):
        installed("coreml", "coremltools", "coremltools")
        import coremltools

        program = exported_program(deploy(source.model), [torch.zeros(1, *source.arch.input_shape)])
        model = coremltools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
        )
        spec = model.get_spec()
        (given,), found = spec.description.input, spec.description.output
        coremltools.utils.rename_feature(spec, given.name, "images")
        if len(found) == 1:
            coremltools.utils.rename_feature(spec, found[0].name, "logits")
        coremltools.models.MLModel(spec, weights_dir=model.weights_dir).save(str(path))
    if platform.system() != "Darwin":
        return Written(path.name, "Core ML runs on macOS only")
    _check(source, path)
    return Written(path.name)


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Hide what coremltools logs when it is imported: that it does not know the versions of other libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@torch.no_grad()
def _check(source: Source, path: Any) -> None:
    """Compare the output with the network's, on macOS. Raises ExportError if it differs."""
    import coremltools

    image = check_input(source.arch.input_shape)
    outputs = coremltools.models.MLModel(str(path)).predict({"images": image.numpy()})
    found = [torch.as_tensor(value) for value in outputs.values()]
    check_close(compared_outputs(found), compared(source.model(image)), TOLERANCE, path)
