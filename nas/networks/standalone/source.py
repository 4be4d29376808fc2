"""Standalone source: a readable Python file of plain torch that holds the classes of a network and builds it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.errors import ExportError
from nas.networks.blocks import find_block, is_ours
from nas.networks.blocks.select_boxes import SelectBoxes
from nas.networks.detectors.post_processing import Detector, is_detector, post_of
from nas.networks.first_weights import with_first_weights
from nas.networks.network import EachMap, in_channels, is_plain, trace, walk
from nas.networks.outputs import compared
from nas.networks.preprocessing import prepare
from nas.networks.standalone.bundle import SourceBundle, Unit, own_packages
from nas.networks.standalone.module_source import Definition, Outside
from nas.networks.standalone.network_class import classes_of, network_class
from nas.networks.standalone.specialize import formatted, specialized

ORIGIN = """Written by nas, of the distribution hwnas. It needs {packages}, but not nas.
`load` of model.safetensors also needs safetensors, and `preprocess` Pillow, numpy and
torchvision."""
BUILD = '''
def build({parameter}features: bool = False) -> nn.Module:
    """Return the network with first weights from torch's default generator.

    With `features`, it returns its feature maps, see `FeatureMaps`.
    """
    network = Network({argument})
    return FeatureMaps(network) if features else network
'''
LOAD = '''
def load(path: str | Path | None = None, {parameter}features: bool = False) -> nn.Module:
    """Return the network in eval mode with weights.

    Args:
        path: A .safetensors file, or one of torch.save. Default: model.safetensors, or
            else model.pt, beside this file.
{about}        features: Whether to return feature maps, see `FeatureMaps`.
    """
    folder = Path(__file__).parent
    default = [each for each in map(folder.joinpath, WEIGHTS) if each.exists()]
    path = Path(path or (default or [folder / WEIGHTS[0]])[0])
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    network = Network({argument})
{fitting}    network.eval()
    return FeatureMaps(network) if features else network
'''
ABOUT_CLASSES = """        num_classes: Number of classes. If it is not that of the weights, the layers
            that depend on it keep their first weights.
"""
FITTING = """    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if num_classes != NUM_CLASSES:
        weights = {name: value for name, value in weights.items() if value.shape == shapes.get(name)}
    network.load_state_dict(weights, strict=num_classes == NUM_CLASSES)
"""
MAIN = '''
def preprocess(image: Any) -> Tensor:
    """Return the network's input (1, C, H, W) for a PIL image, as in training."""
    return prepare(image, INPUT_SHAPE, FIT)


def check_input() -> Tensor:
    """Return the input for the check: (1, C, H, W), from -1 to 1. `card.json` holds the output for it."""
    channels, height, width = INPUT_SHAPE
    return torch.linspace(-1, 1, channels * height * width).reshape(1, channels, height, width)


def main() -> None:
    """Load the weights, run the network once, and compare the output with the one in `card.json`."""
    card = json.loads(Path(__file__).with_name("card.json").read_text(encoding="utf-8"))
    network = load()
    with torch.no_grad():
        output = network(check_input()).double()
    expected = torch.tensor(card["check"]["output"], dtype=torch.float64)
    largest = expected.abs().max().item()
    params = sum(parameter.numel() for parameter in network.parameters())
    print(f"{params} parameters, input {(1, *INPUT_SHAPE)}, output {tuple(output.shape)}")
    difference = (output - expected).abs().max().item()
    print(f"largest difference from the exported network's output: {difference:.2g}, of at most {largest:.2g}")
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4 * largest + 1e-30, equal_nan=True):
        raise SystemExit("the output differs from the exported network's")


if __name__ == "__main__":
    main()
'''
LOAD_DETECTOR = '''

def load_detector(path: str | Path | None = None) -> Detector:
    """Return the network with its post-processing: corners in pixels, scores, classes, and how many of them count."""
    return Detector(load(path), {select}, {sizes}, INPUT_SHAPE[1:]).eval()
'''
CHECK_DETECTOR = """
    with torch.no_grad():
        _, scores, _, count = load_detector()(check_input())
    difference = (scores[0].double() - torch.tensor(card["check"]["scores"], dtype=torch.float64)).abs().max().item()
    print(f"{int(count)} boxes; largest difference of their scores: {difference:.2g}")
    if not difference <= 1e-3:
        raise SystemExit("the scores differ from the exported network's")
"""
MAIN_IMPORTS = (
    Outside("json", "", "json"),
    Outside("pathlib", "Path", "Path"),
    Outside("typing", "Any", "Any"),
    Outside("torch", "", "torch"),
    Outside("torch", "Tensor", "Tensor"),
    Outside("torch", "nn", "nn"),
)
RESERVED = ("INPUT_SHAPE", "FIT", "CLASSES", "NUM_CLASSES", "WEIGHTS", "load", "load_detector", "check_input",
            "preprocess", "main", "build", "Network", "FeatureMaps")  # fmt: skip


def standalone_source(arch: Architecture, title: str, fit: str = "crop", classes: Sequence[str] = ()) -> str:
    """Return a Python file that builds `arch`, loads the weights in its folder, and checks the output.

    It holds the blocks with the options that the network uses, unless one is of another package: then all definitions
    are copied as they are.

    Args:
        arch: The architecture.
        title: First line of the file's docstring.
        fit: How images that are not square are fitted: a key of `FITS`.
        classes: The names of the classes, if they are known.

    Raises:
        ExportError: The definition of a block cannot be copied. The error names the block, the file and the line.
    """
    bundle, names, needed, own = _bundle_of(arch)
    later = [unit for unit in bundle.ordered() if unit not in own]
    packages = ["torch", *needed]
    named = ", ".join(packages[:-1]) + " and " * (len(packages) > 1) + packages[-1]
    parts = [
        f'"""{title}\n\n{ORIGIN.format(packages=named)}\n"""',
        "from __future__ import annotations",
        bundle.import_lines(),
        _constants(arch, fit, classes),
        *spaced(unit.text for unit in own),
        "\n" + network_class(arch, names),
        _filled(BUILD, arch),
    ]
    rest = "\n\n".join([*spaced(unit.text for unit in later), _filled(LOAD, arch), _main(arch).strip()])
    source, is_own = "\n\n".join(parts), all(is_ours(layer.spec.op) for layer in trace(arch))
    if is_own:
        source = specialized(source, arch.input_shape, rest)
    return formatted(f"{source}\n\n{rest}\n", is_own)


def requirements(arch: Architecture) -> list[str]:
    """Return the distributions that the file of `arch` imports, besides torch and safetensors. Raises ExportError."""
    layers = trace(arch)
    return [] if all(is_ours(layer.spec.op) for layer in layers) else _bundle_of(arch)[2]


def _constants(arch: Architecture, fit: str, classes: Sequence[str]) -> str:
    lines = [f"INPUT_SHAPE = {arch.input_shape}", f'FIT = "{fit}"', 'WEIGHTS = ("model.safetensors", "model.pt")']
    lines += [f"NUM_CLASSES = {classes_of(arch)}"] if classes_of(arch) else []
    return "\n".join([*lines, f"CLASSES = {tuple(classes)!r}"] if classes else lines)


def _filled(template: str, arch: Architecture) -> str:
    """Return the source of a function that builds the network. It has a number of classes if the head has one."""
    if not classes_of(arch):
        fitting = "    network.load_state_dict(weights)\n"
        return template.format(parameter="", argument="", about="", fitting=fitting)
    parameter = "num_classes: int = NUM_CLASSES, "
    return template.format(parameter=parameter, argument="num_classes", about=ABOUT_CLASSES, fitting=FITTING)


def _main(arch: Architecture) -> str:
    """Return the end of the file. Of several outputs, some values are compared, and of a detector its scores."""
    if is_plain(arch):
        return MAIN
    main = MAIN.replace("network(check_input()).double()", "compared(network(check_input())).double()")
    if not is_detector(arch):
        return main
    post, sizes = post_of(arch)
    arguments = ", ".join([repr(in_channels(post)), *(f"{key}={value!r}" for key, value in post.spec.args)])
    loader = LOAD_DETECTOR.format(select=f"{SelectBoxes.__name__}({arguments})", sizes=sizes)
    main = main.replace("\n\ndef check_input", f"{loader}\n\ndef check_input")
    return main.replace("\n\n\nif __name__", f"{CHECK_DETECTOR}\n\nif __name__")


def _bundle_of(arch: Architecture) -> tuple[SourceBundle, dict[str, str], list[str], list[Unit]]:
    """Return the bundle of a network, the expression for each block's class, the packages and units that it needs.

    The packages and units that only the functions after the network use are not among these.
    """
    ops = list(dict.fromkeys(layer.spec.op for layer in trace(arch)))
    bundle = make_bundle(ops, RESERVED, MAIN_IMPORTS)
    network: list[Any] = [with_first_weights]
    network += [EachMap] if any(block.for_each_map for _, block in walk(arch)) else []
    later: list[Any] = [prepare] if is_plain(arch) else [compared, prepare]
    later += [SelectBoxes, Detector] if is_detector(arch) else []
    for item in (*network, *later):
        bundle.reserve(Definition(item.__module__, item.__name__))
    names = {op: add_block(bundle, op) for op in ops}
    for item in network:
        bundle.add(item.__module__, item.__name__)
    needed, own = list(bundle.requirements), bundle.ordered()
    for item in later:
        bundle.add(item.__module__, item.__name__)
    return bundle, names, needed, own


def make_bundle(ops: Iterable[str], reserved: Iterable[str] = (), imports: tuple[Outside, ...] = ()) -> SourceBundle:
    """Return an empty bundle that copies the modules of the blocks `ops`."""
    return SourceBundle(own_packages(find_block(op).__module__ for op in ops), reserved, imports)


def add_block(bundle: SourceBundle, op: str) -> str:
    """Add the class of a block with everything that it uses, and return the expression that stands for the class.

    Raises:
        ExportError: The class, or something that it uses, cannot be copied.
    """
    block = find_block(op)
    try:
        name, _, rest = _place(op, block).partition(".")
        return ".".join(part for part in (bundle.add(block.__module__, name), rest) if part)
    except ExportError as error:
        raise ExportError(str(error), where=f"block '{op}'") from error


def _place(op: str, block: type[nn.Module]) -> str:
    """Return the name of a block's class in its module, with the classes around it."""
    module = sys.modules[block.__module__]
    found: object = module
    for part in block.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is block:
        return block.__qualname__
    names: list[str] = [name for name, value in vars(module).items() if value is block]  # the result of a function
    if not names:
        raise ExportError(f"the class '{block.__qualname__}' has no name in the module '{module.__name__}'")
    return names[0]


def spaced(texts: Iterable[str]) -> list[str]:
    """Return sources with one more blank line before classes and functions."""
    return [f"\n{text}" if text.startswith(("class ", "def ", "@")) else text for text in texts]
