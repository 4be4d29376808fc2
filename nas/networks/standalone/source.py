"""Standalone source: a readable Python file of plain torch that holds the classes of a network and builds it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.errors import ExportError
from nas.networks.block_schema import takes_maps
from nas.networks.blocks import find_block, is_ours
from nas.networks.blocks.select_boxes import SelectBoxes
from nas.networks.detectors.post_processing import Detector, is_detector, post_of
from nas.networks.first_weights import with_first_weights
from nas.networks.network import EachMap, Layer, MultiMapNetwork, Network, Placed, in_channels, is_plain, trace, walk
from nas.networks.outputs import compared
from nas.networks.preprocessing import prepare
from nas.networks.standalone.bundle import SourceBundle, own_packages
from nas.networks.standalone.module_source import Definition, Outside

ORIGIN = "Written by nas, of the distribution hwnas. It needs {packages}, but not nas."
MAIN = '''
def load(path: str | Path = Path(__file__).with_name("model.safetensors")) -> Network:
    """Return the network in eval mode with the weights of a safetensors file."""
    network = build()
    network.load_state_dict(load_file(path))
    return network.eval()


def preprocess(image: Any) -> Tensor:
    """Return the network's input (1, C, H, W) for a PIL image, as in training. Needs Pillow, numpy and torchvision."""
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

def load_detector(path: str | Path = Path(__file__).with_name("model.safetensors")) -> Detector:
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
    Outside("safetensors.torch", "load_file", "load_file"),
)
RESERVED = ("INPUT_SHAPE", "FIT", "build", "load", "load_detector", "check_input", "preprocess", "main")


def standalone_source(arch: Architecture, title: str, fit: str = "crop") -> str:
    """Return a Python file that builds `arch`, loads model.safetensors from its folder, and checks the output.

    Args:
        arch: The architecture.
        title: First line of the file's docstring.
        fit: How images that are not square are fitted: a key of `FITS`.

    Raises:
        ExportError: The definition of a block cannot be copied. The error names the block, the file and the line.
    """
    bundle, names, needed = _bundle_of(arch)
    packages = ["torch", "safetensors", *needed]
    origin = ORIGIN.format(packages=f"{', '.join(packages[:-1])} and {packages[-1]}")
    parts = [
        f'"""{title}\n\n{origin}\n"""',
        "from __future__ import annotations",
        bundle.import_lines(),
        f'INPUT_SHAPE = {arch.input_shape}\nFIT = "{fit}"',
        *spaced(unit.text for unit in bundle.ordered()),
        _build_function(arch, names) + "\n" + _main(arch).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def requirements(arch: Architecture) -> list[str]:
    """Return the distributions that the file of `arch` imports, besides torch and safetensors. Raises ExportError."""
    layers = trace(arch)
    return [] if all(is_ours(layer.spec.op) for layer in layers) else _bundle_of(arch)[2]


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
    main = main.replace("\n\ndef preprocess", f"{loader}\n\ndef preprocess")
    return main.replace("\n\n\nif __name__", f"{CHECK_DETECTOR}\n\nif __name__")


def _bundle_of(arch: Architecture) -> tuple[SourceBundle, dict[str, str], list[str]]:
    """Return the bundle of a network, the expression for the class of each block, and what the network imports.

    The packages that only `preprocess` imports are not among them.
    """
    ops = list(dict.fromkeys(layer.spec.op for layer in trace(arch)))
    bundle = make_bundle(ops, RESERVED, MAIN_IMPORTS)
    networks: list[Any] = [Network] if is_plain(arch) else [Network, MultiMapNetwork, EachMap, compared]
    if is_detector(arch):
        networks += [SelectBoxes, Detector]
    own = [Definition(item.__module__, item.__name__) for item in (*networks, with_first_weights, prepare)]
    for definition in own:
        bundle.reserve(definition)
    names = {op: add_block(bundle, op) for op in ops}
    for definition in own[:-1]:
        bundle.add(definition.module, definition.name)
    needed = list(bundle.requirements)
    bundle.add(own[-1].module, own[-1].name)
    return bundle, names, needed


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


def _build_function(arch: Architecture, names: dict[str, str]) -> str:
    slots: list[list[str]] = [[] for _ in arch.slots]
    for number, block in walk(arch):
        slots[number].append(_placed_call(block, names))
    about = "Return the network with first weights from torch's default generator."
    lines = ["", "def build() -> Network:", f'    """{about}"""', *_listed("stages", slots[: len(arch.stages)])]
    made = f"Network(stages, {slots[-1][0]})"
    if not is_plain(arch):
        lines += _listed("neck", slots[len(arch.stages) : -1])
        made = f"MultiMapNetwork(stages, {slots[-1][0]}, {arch.taps!r}, neck)"
    return "\n".join([*lines, f"    return with_first_weights({made})", ""])


def _listed(name: str, slots: list[list[str]]) -> list[str]:
    """Return the lines that assign the blocks of some slots."""
    lines = [f"    {name} = ["]
    for calls in slots:
        lines += ["        [", *(f"            {call}," for call in calls), "        ],"]
    return [*lines, "    ]"]


def _placed_call(block: Placed, names: dict[str, str]) -> str:
    """Return the expression that makes a block at its place."""
    calls = [block_call(layer, names) for layer in block.layers]
    return f"EachMap([{', '.join(calls)}])" if block.for_each_map else calls[0]


def block_call(layer: Layer, names: dict[str, str]) -> str:
    """Return the expression that makes the block of a layer."""
    channels: Any = in_channels(layer)
    first = channels if takes_maps(layer.spec.op) else channels[0]
    args = ", ".join([repr(first), *(f"{key}={value!r}" for key, value in layer.spec.args)])
    return f"{names[layer.spec.op]}({args})"
