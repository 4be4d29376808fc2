"""`nas export`: write a network as a folder that runs without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.utils.reporting import Reporter

HELP = "export a run's winner or a network: PyTorch source and weights, ONNX, and a runtime's format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="run folder, exported folder, or a network's name or YAML file"
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: exports/SOURCE)")
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        metavar="NAME",
        help="also write this runtime's format (default: onnxruntime); see `nas list runtimes`",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="numbers of the exported network: float32 (default), float16, bfloat16 or int8; int8 needs --data",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="images that decide the ranges of int8: a named data set, an image folder"
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        help="images that the ONNX file takes at once: a number, or 'dynamic' for any (default: 1)",
    )
    parser.add_argument(
        "--format",
        metavar="NAMES",
        help="write further forms, separated by commas: onnx (always written), pt, pt2, hub, timm, coreml, or runtimes "
        "such as openvino; see `nas list forms`",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: 18)")
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes of the network's head")
    parser.add_argument(
        "--weights",
        metavar="FROM",
        help="pretrained weights: 'torchvision', or a .pth or .safetensors file from torchvision or timm",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for fresh weights (default: 0)")


def run(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Export the network. Returns its card and the folder's path."""
    from nas.devices.runtimes import is_exact, make_runtime, with_precision
    from nas.errors import UsageError
    from nas.networks.export import export_folder
    from nas.networks.exported_folder import exported_fit
    from nas.networks.forms import FORMS
    from nas.training.deployed_network import check_deployable

    if args.precision is not None:
        args.runtime = with_precision(args.runtime, args.precision)
    make_runtime(args.runtime)
    source = Path(args.source)
    folder = Path(args.out) if args.out else Path("exports") / source.stem
    if source.is_dir():
        if args.weights is not None:
            raise UsageError("applies only to a network that is given by name or YAML file", key="weights")
        arch, model, facts, fit = _exported(source)
    else:
        (arch, model, facts), fit = _fresh(args), exported_fit({})
        reporter.say(f"weights: {facts['weights']}")
    forms, form = _forms(args), _onnx_form(args, arch)
    runtimes = [args.runtime, *(name for name in forms if name not in FORMS)]
    for name in runtimes:
        check_deployable(arch, name)
        if form and form.batch != 1 and not is_exact(name):
            raise UsageError("applies to float32 only", key="batch", value=args.batch)
    images = _calibration_images(args, runtimes, arch, fit)
    card = export_folder(arch, model, folder, args.runtime, facts, fit, images=images, onnx_form=form, forms=forms)
    for entry in card["forms"].values():
        if not entry["checked"]:
            reporter.warn(f"{folder / entry['file']}: its output was not compared: {entry['reason']}")
    return {"model": str(folder), **card}


def _forms(args: argparse.Namespace) -> list[str]:
    """Return the further forms of --format. Those of runtimes are in --precision, if it is given.

    Raises UsageError for an unknown one, DeviceError if the library of a runtime is not installed.
    """
    from nas.devices.runtimes import RUNTIMES, make_runtime, with_precision
    from nas.networks.forms import FORMS
    from nas.utils.registry import lookup

    found = []
    for name in dict.fromkeys(each.strip() for each in (args.format or "").split(",") if each.strip()):
        if name == "onnx":  # it is always written
            continue
        lookup({**FORMS, **RUNTIMES}, name, "form", "--format")
        chosen = with_precision(name, args.precision) if name in RUNTIMES and args.precision else name
        if chosen not in FORMS:
            make_runtime(chosen)
        found.append(chosen)
    return found


def _onnx_form(args: argparse.Namespace, arch: Any) -> Any:
    """Return the form of the ONNX file that the flags name; None without them. Raises UsageError."""
    from nas.devices.runtimes.onnxruntime import OPSETS, OnnxForm
    from nas.errors import UsageError
    from nas.networks.detectors.post_processing import is_detector

    if args.batch is None and args.opset is None:
        return None
    if args.opset is not None and args.opset not in OPSETS:
        raise UsageError(f"must be from {OPSETS[0]} to {OPSETS[-1]}", key="opset", value=args.opset)
    given = args.batch or "1"
    if given != "dynamic" and not (given.isascii() and given.isdigit() and 0 < int(given) <= 4096):
        raise UsageError("must be a number from 1 to 4096, or 'dynamic'", key="batch", value=given)
    if given != "1" and is_detector(arch):
        raise UsageError("detectors take one image at a time: their post-processing selects its boxes", key="batch")
    return OnnxForm(None if given == "dynamic" else int(given), args.opset or OnnxForm.opset)


def _calibration_images(args: argparse.Namespace, runtimes: list[str], arch: Any, fit: str) -> Any:
    """Return the normalized images of --data for runtimes in int8; None without one."""
    from nas.devices.runtimes import precision_of
    from nas.errors import UsageError

    if not any(precision_of(name) == "int8" for name in runtimes):
        if args.data is not None:
            raise UsageError("has an effect in int8 only: give --precision int8", key="data", value=args.data)
        return None
    if args.data is None:
        raise UsageError("int8 needs images, which decide the ranges of activations", key="data")
    from nas.training.deployed_network import calibration_images
    from nas.training.tasks.classification import Classification

    task = Classification.load(args.data, fit=fit).for_input(arch.input)
    return calibration_images(task, arch.resolution)


def _exported(source: Path) -> tuple[Any, Any, dict[str, Any], str]:
    from nas.networks.exported_folder import exported_fit, exported_in, facts_of, load_exported

    arch, model, card = load_exported(exported_in(source))
    return arch, model, facts_of(card), exported_fit(card)


def _fresh(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    import torch

    from nas.errors import SpaceError, located
    from nas.networks.network import build
    from nas.networks.pretrained import load_fitting, load_weights
    from nas.spaces.resolutions import as_rectangle
    from nas.spaces.yaml_format import load_space

    space = as_rectangle(load_space(args.source))
    space = space.for_classes(args.classes) if args.classes is not None else space
    if not space.is_network:
        raise SpaceError(f"has {len(space.choices)} choices; search it, then export the run", where=args.source)
    arch = space.decode({})
    with torch.random.fork_rng(), located(args.source):
        torch.manual_seed(args.seed)
        model = build(arch)
    if args.weights is None:
        return arch, model, {"weights": "fresh, not trained", "seed": args.seed}
    load = load_weights if args.classes is None else load_fitting  # other classes need a fresh classifier
    return arch, model, {"weights": load(model, args.weights, args.source), "seed": args.seed}


def print_result(result: dict[str, Any]) -> None:
    """Print the folder and its files."""
    print(f"model    {result['model']}")
    print(f"files    {', '.join(sorted(path.name for path in Path(result['model']).iterdir()))}")
