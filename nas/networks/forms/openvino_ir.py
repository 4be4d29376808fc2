"""OpenVINO's own format, for programs that do not read ONNX files."""

from __future__ import annotations

import torch

from nas.devices.runtimes import not_run, run_once
from nas.devices.runtimes.support import converting, installed
from nas.networks.exported_folder import check_input
from nas.networks.exported_outputs import check_close, compared_outputs
from nas.networks.forms.base import Source, Written
from nas.networks.outputs import compared

TOLERANCE = 1e-4


@torch.no_grad()
def write_ir(source: Source) -> Written:
    """OpenVINO IR, as model.xml and model.bin; `--precision int8` writes model.int8.xml, quantized by NNCF.

    Raises ExportError if its output differs, DeviceError without openvino.
    """
    path, image = source.folder / "model.xml", check_input(source.arch.input_shape)
    installed("openvino", "openvino", "openvino")
    with converting("openvino"):
        import openvino

        openvino.save_model(openvino.Core().read_model(source.folder / "model.onnx"), path, compress_to_fp16=False)
    if reason := not_run("openvino"):
        return Written(path.name, reason)
    outputs = run_once("openvino", path, image)
    check_close(compared_outputs(outputs), compared(source.model(image)), TOLERANCE, path)
    return Written(path.name)
