"""All forms of one exported network beside each other: size, latency, and agreement of top-1 with the network.

    python -m benchmarks.forms RUN --data DIR [--images 1000] [--forms onnxruntime_int8,openvino,...]

Exports the network again in every form that is installed here, runs each on single test images with one thread, and
prints the share of images for which it names the same class as the network in float32, its top-1 accuracy, the bytes of
its file, and the median latency of calls that alternate between the forms.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nas.devices.runtimes import RUNTIMES, computes, find_runtime, not_run
from nas.errors import NasError
from nas.networks.export import export_folder
from nas.networks.exported_folder import exported_fit, exported_in, load_exported
from nas.networks.forms import FORMS
from nas.training.deployed_network import DeployedNetwork, calibration_images
from nas.training.tasks.classification import Classification
from nas.utils.files import size_of

ROUNDS = 60
Run = Callable[[Tensor], Tensor]
Rows = dict[str, tuple[Run | None, Path, str]]


def runs_of(folder: Path, name: str, shape: tuple[int, int, int]) -> tuple[Run | None, Path]:
    """Return what runs a form, if it can be run here, and its file."""
    if name == "openvino":
        return DeployedNetwork(name, folder / "model.xml", shape), folder / "model.xml"
    if name in FORMS:
        return form_runs(folder, name)
    path = folder / f"model{find_runtime(name).suffix}"
    return DeployedNetwork(name, path, shape), path


def form_runs(folder: Path, name: str) -> tuple[Run | None, Path]:
    """Return what runs a form of no runtime, and its file."""
    if name == "pt2":
        program: Any = torch.export.load(folder / "model.pt2").module()
        return program, folder / "model.pt2"
    modules = {"pt": "model.py", "hub": "hub/model.py", "timm": "timm_model.py"}
    files = {"pt": "model.pt", "hub": "hub", "timm": "timm.safetensors", "coreml": "model.mlpackage"}
    if name not in modules:
        return None, folder / files[name]
    path = folder / modules[name]
    names: dict[str, Any] = {"__name__": "form", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    network: nn.Module = names["load"](folder / "model.pt") if name == "pt" else names["load"]()
    return network.eval(), folder / files[name]


def available(names: list[str]) -> list[str]:
    """Return the forms that can be written here: those given, or all that are installed."""
    every = names or [*FORMS, *(name for name in RUNTIMES if computes(name) and "cuda" not in name)]
    return [name for name in every if name in FORMS or not not_run(name)]


@torch.no_grad()
def main() -> int:
    """Export, run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--forms", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    arch, model, card = load_exported(exported_in(Path(args.run)))
    fit = exported_fit(card)
    task = Classification.load(args.data, fit=fit).for_input(arch.input)
    test = task.test_set(arch.resolution)
    chosen = range(0, len(test), max(1, len(test) // args.images))
    images = [normalized(test[index][0]) for index in chosen]
    labels = torch.tensor([int(test[index][1]) for index in chosen])
    ranges = calibration_images(task, arch.resolution)
    expected = torch.cat([model(image) for image in images]).argmax(1)
    rows: Rows = {"torch eager": (model.eval(), Path(), "")}
    with tempfile.TemporaryDirectory() as place:
        for name in available([each for each in args.forms.split(",") if each]):
            folder = Path(place) / name
            try:
                export_folder(arch, model, folder, "onnxruntime", {}, fit, images=ranges, forms=[name])
                rows[name] = *runs_of(folder, name, arch.input_shape), ""
            except NasError as error:
                rows[name] = None, folder, str(error)
        report(rows, images, labels, expected)
    return 0


def normalized(image: Tensor) -> Tensor:
    """Return a network's input (1, C, H, W) for a test image."""
    from nas.networks.preprocessing import normalize

    return normalize(image[None])


def report(rows: Rows, images: list[Tensor], labels: Tensor, expected: Tensor) -> None:
    """Print one row for each form."""
    able = {name: run for name, (run, _, _) in rows.items() if run is not None}
    times: dict[str, list[float]] = {name: [] for name in able}
    for number in range(ROUNDS + 5):
        for name, run in able.items():
            start = time.perf_counter()
            run(images[number % len(images)])
            times[name] += [1e3 * (time.perf_counter() - start)] if number >= 5 else []
    print(f"{'form':<20} {'size':>9} {'latency':>9} {'same class':>10} {'top-1':>7}")
    for name, (runs, path, problem) in rows.items():
        size = f"{size_of(path) / 1e6:.2f} MB" if path.name and path.exists() else ""
        if runs is None:
            print(f"{name:<20} {size:>9} {problem or 'cannot be run here'}")
            continue
        found = torch.cat([runs(image) for image in images]).argmax(1)
        same, right = (found == expected).double().mean(), (found == labels).double().mean()
        print(f"{name:<20} {size:>9} {median(times[name]):>6.3f} ms {same:>10.1%} {right:>7.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
