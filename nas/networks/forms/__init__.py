"""Forms of an exported network that no runtime measures. To add one, write a file and add a line here."""

from __future__ import annotations

from nas.networks.forms.base import Form
from nas.networks.forms.coreml import write_core_ml
from nas.networks.forms.hub import write_hub
from nas.networks.forms.openvino_ir import write_ir
from nas.networks.forms.state_dict import write_state_dict
from nas.networks.forms.timm import write_timm
from nas.networks.forms.torch_program import write_program

FORMS: dict[str, Form] = {
    "pt": write_state_dict,
    "pt2": write_program,
    "openvino": write_ir,
    "coreml": write_core_ml,
    "hub": write_hub,
    "timm": write_timm,
}
"""The forms, by the names that `nas export --format` takes besides those of runtimes."""
