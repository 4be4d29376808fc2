"""Standalone source: a readable Python file of plain torch that holds the classes of a network and builds it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from nas.architecture import Architecture
from nas.networks import preprocessing
from nas.networks.block_schema import TRAITS, takes_maps
from nas.networks.blocks import BLOCKS
from nas.networks.network import Layer, Network, in_channels, trace
from nas.utils.registry import lookup

ORIGIN = "Written by nas (https://pypi.org/project/hwnas). It needs torch and safetensors, but not nas."
MAIN = '''
def load(path: str | Path = Path(__file__).with_name("model.safetensors")) -> Network:
    """Return the network in eval mode with the weights of a safetensors file."""
    network = build()
    network.load_state_dict(load_file(path))
    return network.eval()


def preprocess(image: Any) -> Tensor:
    """Return the network's input (1, 3, R, R) for a PIL image, as in training. Needs Pillow, numpy and torchvision."""
    return prepare(image, RESOLUTION, FIT)


def check_input() -> Tensor:
    """Return the input for the check: (1, 3, R, R), from -1 to 1. `card.json` holds the output for it."""
    return torch.linspace(-1, 1, 3 * RESOLUTION**2).reshape(1, 3, RESOLUTION, RESOLUTION)


def main() -> None:
    """Load the weights, run the network once, and compare the output with the one in `card.json`."""
    card = json.loads(Path(__file__).with_name("card.json").read_text(encoding="utf-8"))
    network = load()
    with torch.no_grad():
        output = network(check_input())
    expected = torch.tensor(card["check"]["output"])
    difference = (output - expected).abs().max().item()
    params = sum(parameter.numel() for parameter in network.parameters())
    print(f"{params} parameters, input (1, 3, {RESOLUTION}, {RESOLUTION}), output {tuple(output.shape)}")
    print(f"largest difference from the exported network's output: {difference:.2g}")
    if difference > 1e-4 * max(1.0, expected.abs().max().item()):
        raise SystemExit("the output differs from the exported network's")


if __name__ == "__main__":
    main()
'''
MAIN_IMPORTS = {
    "json": {""},
    "pathlib": {"Path"},
    "typing": {"Any"},
    "torch": {"", "Tensor", "nn"},
    "safetensors.torch": {"load_file"},
}


@dataclass
class SourceBundle:
    """Classes and functions of this package with everything they use.

    Attributes:
        sources: Source code by name. Every definition follows those that it uses.
        imports: The names to import from each other module. "" stands for the module itself.
    """

    sources: dict[str, str] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)

    def add(self, module: ModuleType, name: str) -> None:
        """Add the definition of `name` in `module`, and all definitions of this package that it uses."""
        if name in self.sources:
            return
        tree = ast.parse(inspect.getsource(module))
        nodes, imported = _definitions(tree), _imports(tree)
        node = nodes[name]
        omitted = _trait_declarations(node)
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if part not in omitted]
        self.sources[name] = ""
        for used in sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {name}):
            if used in nodes:
                self.add(module, used)
            elif used in imported:
                self._import(used, *imported[used])
        self.sources[name] = self.sources.pop(name) + _source(module, node, omitted)

    def _import(self, used: str, origin: str, name: str) -> None:
        if origin.partition(".")[0] == __name__.partition(".")[0]:
            self.add(importlib.import_module(origin), name)
        else:
            self.imports.setdefault(origin, set()).add(name if name == used else f"{name} as {used}")


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


def _imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return {local name: (module, name in it)}. The name is "" for the module itself."""
    found: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return found


def _trait_declarations(node: ast.stmt) -> list[ast.stmt]:
    """Return the statements of a block's class that declare traits: the search needs them, the network does not."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [part for part in body if _declared_name(part) in TRAITS]


def _declared_name(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _source(module: ModuleType, node: ast.stmt, omitted: Sequence[ast.stmt]) -> str:
    """Return the source of `node` without the statements `omitted` and the blank line after each."""
    lines = inspect.getsource(module).splitlines()
    hidden = {number for part in omitted for number in range(_first_line(part), (part.end_lineno or 0) + 2)}
    shown = range(_first_line(node), (node.end_lineno or 0) + 1)
    return "\n".join(lines[number - 1] for number in shown if number not in hidden)


def _first_line(node: ast.stmt) -> int:
    """Return the number of the first line of a statement, including its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def standalone_source(arch: Architecture, title: str, fit: str = "crop") -> str:
    """Return a Python file that builds `arch`, loads model.safetensors from its folder, and checks the output.

    Args:
        arch: The architecture.
        title: First line of the file's docstring.
        fit: How images that are not square are fitted: a key of `FITS`.
    """
    layers = trace(arch)
    bundle = SourceBundle(imports={key: set(names) for key, names in MAIN_IMPORTS.items()})
    for spec in dict.fromkeys(layer.spec.op for layer in layers):
        block = lookup(BLOCKS, spec, "block")
        bundle.add(importlib.import_module(block.__module__), block.__name__)
    bundle.add(importlib.import_module(Network.__module__), Network.__name__)
    bundle.add(preprocessing, preprocessing.prepare.__name__)
    parts = [
        f'"""{title}\n\n{ORIGIN}\n"""',
        "from __future__ import annotations",
        _import_lines(bundle.imports),
        f'RESOLUTION = {arch.resolution}\nFIT = "{fit}"',
        *_spaced(bundle.sources),
        _build_function(arch, layers) + "\n" + MAIN.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _spaced(sources: dict[str, str]) -> list[str]:
    return [f"\n{text}" if text.startswith(("class ", "def ", "@")) else text for text in sources.values()]


def _import_lines(imports: dict[str, set[str]]) -> str:
    lines = []
    for module, names in imports.items():
        named = sorted(name for name in names if name and not name.startswith(" as "))
        lines += [f"import {module}{name}" for name in sorted(names) if not name or name.startswith(" as ")]
        if named:
            lines.append(f"from {module} import {', '.join(named)}")
    return "\n".join(sorted(lines))


def _build_function(arch: Architecture, layers: tuple[Layer, ...]) -> str:
    remaining = iter(layers)
    lines = ["", "def build() -> Network:", '    """Return the network with fresh weights."""', "    stages = ["]
    for stage in arch.stages:
        lines.append("        [")
        lines += [f"            {_call(next(remaining))}," for _ in stage]
        lines.append("        ],")
    lines += ["    ]", f"    return Network(stages, {_call(next(remaining))})", ""]
    return "\n".join(lines)


def _call(layer: Layer) -> str:
    channels: Any = in_channels(layer)
    first = channels if takes_maps(layer.spec.op) else channels[0]
    args = ", ".join([repr(first), *(f"{key}={value!r}" for key, value in layer.spec.args)])
    return f"{lookup(BLOCKS, layer.spec.op, 'block').__name__}({args})"
