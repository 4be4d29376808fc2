"""Source bundle: the definitions that an exported network needs, copied from their modules into one file."""

from __future__ import annotations

import ast
import builtins
import copy
import itertools
import keyword
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.errors import ExportError
from nas.networks.block_schema import TRAITS
from nas.networks.standalone.module_source import (
    Definition,
    Inside,
    Modules,
    ModuleSource,
    Outside,
    Target,
    distributions_by_package,
)
from nas.networks.standalone.rewriter import Uses, rewrite


@dataclass(eq=False)
class Unit:
    """A top-level statement with everything that it uses.

    Attributes:
        source: The module that holds the statement.
        node: The statement.
        text: Its source in the bundle.
        now: The units that must run before this one, because running it uses their names.
        later: The units whose names its functions use.
        mentioned: The units that only its annotations name.
        is_verbatim: Whether `text` is the source as it is.
    """

    source: ModuleSource
    node: ast.stmt
    text: str = ""
    now: dict[Unit, None] = field(default_factory=dict)
    later: dict[Unit, None] = field(default_factory=dict)
    mentioned: dict[Unit, None] = field(default_factory=dict)

    is_verbatim: bool = True

    @property
    def first_line(self) -> int:
        """The number of the statement's first line in its file."""
        return _first_line(self.node)


class SourceBundle:
    """Classes and functions of one or several modules with everything they use, under names that do not collide.

    Args:
        own: The top-level packages whose definitions are copied. Other local modules are copied too.
        reserved: Names that the file uses itself.
        imports: The imports that the file makes itself.
    """

    def __init__(self, own: set[str], reserved: Iterable[str] = (), imports: Sequence[Outside] = ()):
        self.modules = Modules(own)
        self.imports = dict.fromkeys(imports)
        self._names: dict[Definition | Outside, str] = {entry: entry.alias for entry in imports}
        self._taken = {*dir(builtins), *keyword.kwlist, *reserved, *self._names.values()}
        self._units: dict[int, Unit] = {}
        self._inner_imports: set[str] = set()

    def reserve(self, definition: Definition) -> None:
        """Keep the name of a definition that is added later."""
        self._names[definition] = definition.name
        self._taken.add(definition.name)

    def add(self, module: str, name: str) -> str:
        """Add what `name` in `module` stands for, and everything that it uses. Return its name in the bundle."""
        target = self.modules.find(module, name)
        if target is None or isinstance(target, Inside):
            raise ExportError(f"the module '{module}' does not define '{name}' at its top level")
        self.units_of(target)
        return self.name_of(target)

    def name_of(self, target: Definition | Outside) -> str:
        """Return the name of a definition or an import in the bundle."""
        if isinstance(target, Outside) and not target.name and target.alias == target.module.partition(".")[0]:
            return target.alias  # several modules of one package share this name
        if target not in self._names:
            preferred = target.name if isinstance(target, Definition) else target.alias
            stem = f"{preferred}_{target.module.rpartition('.')[2].strip('_')}"
            numbered = (f"{stem}_{number}" for number in itertools.count(2))
            self._names[target] = next(n for n in itertools.chain([preferred, stem], numbered) if n not in self._taken)
            self._taken.add(self._names[target])
        return self._names[target]

    def units_of(self, target: Target) -> list[Unit]:
        """Return the statements that define `target`, added if needed. An import is added to `imports`."""
        if isinstance(target, Definition):
            source = self.modules.source(target.module)
            units = [self._unit(source, node) for node in source.statements[target.name]]
            for before, after in itertools.pairwise(units):
                after.now[before] = None
            return units
        if isinstance(target, Outside):
            self.imports[target] = None
        return []

    def _unit(self, source: ModuleSource, node: ast.stmt) -> Unit:
        if id(node) not in self._units:
            unit = self._units[id(node)] = Unit(source, node)
            omitted = _trait_declarations(source, node)
            kept = copy.copy(node)  # the next bundle reads the same source
            if isinstance(kept, ast.ClassDef):
                kept.body = [part for part in kept.body if part not in omitted] or [ast.Pass()]
            uses: Uses = rewrite(kept, source, self)
            unit.text = ast.unparse(uses.node) if uses.is_changed else _verbatim(source, kept, omitted)
            unit.is_verbatim = not uses.is_changed and not omitted
            self._inner_imports |= uses.inner_imports
            kinds = ((uses.now, unit.now), (uses.later, unit.later), (uses.in_annotations, unit.mentioned))
            for targets, units in kinds:
                for target in targets:
                    found = self.units_of(target)
                    units.update(dict.fromkeys(found[: found.index(unit)] if unit in found else found))
        return self._units[id(node)]

    def ordered(self) -> list[Unit]:
        """Return all units. Each follows the units that it needs to run, and where possible all that it uses."""
        order: dict[Unit, None] = {}
        active: set[Unit] = set()

        def visit(unit: Unit) -> None:
            if unit in order or unit in active:
                return
            active.add(unit)
            for needed in [*unit.now, *_reachable(unit.now)]:
                visit(needed)
            for used in [*unit.later, *unit.mentioned]:
                if not active & _reachable(used.now):
                    visit(used)
            active.discard(unit)
            order[unit] = None

        for unit in self._units.values():
            visit(unit)
        return list(order)

    @property
    def requirements(self) -> list[str]:
        """The installed distributions that the bundle imports, besides torch and safetensors."""
        modules = {entry.module for entry in self.imports if not entry.for_typing} | self._inner_imports
        tops = {module.partition(".")[0] for module in modules}
        foreign = tops - sys.stdlib_module_names - {"torch", "safetensors"}
        return sorted({distributions_by_package().get(top, [top])[0] for top in foreign})

    def import_lines(self) -> str:
        """Return the import statements."""
        lines = {_import_line(entry, self.name_of(entry)) for entry in self.imports if not entry.for_typing}
        typed = {_import_line(entry, self.name_of(entry)) for entry in self.imports if entry.for_typing} - lines
        lines |= {"from typing import TYPE_CHECKING"} if typed else set()
        text = "\n".join([*sorted(line for line in lines if line.startswith("import ")), *_joined(lines)])
        block = "\n".join(f"    {line}" for line in sorted(typed))
        return f"{text}\n\nif TYPE_CHECKING:\n{block}" if typed else text


def _reachable(units: Iterable[Unit]) -> set[Unit]:
    """Return the units, everything that they need, and everything that their functions use."""
    found: set[Unit] = set()
    waiting = list(units)
    while waiting:
        unit = waiting.pop()
        if unit not in found:
            found.add(unit)
            waiting += [*unit.now, *unit.later]
    return found


def _import_line(entry: Outside, name: str) -> str:
    if entry.name:
        return f"from {entry.module} import {entry.name}" + (f" as {name}" if name != entry.name else "")
    return f"import {entry.module}" + (f" as {name}" if name != entry.module.partition(".")[0] else "")


def _joined(lines: Iterable[str]) -> list[str]:
    """Return one line for all names that are imported from one module."""
    names: dict[str, list[str]] = {}
    for line in sorted(line for line in lines if line.startswith("from ")):
        origin, _, name = line.removeprefix("from ").partition(" import ")
        names.setdefault(origin, []).append(name)
    return [f"from {origin} import {', '.join(found)}" for origin, found in names.items()]


def _trait_declarations(source: ModuleSource, node: ast.stmt) -> list[ast.stmt]:
    """Return the statements of a block's class that declare traits: the search needs them, the network does not.

    A trait that the module reads is kept.
    """
    body = node.body if isinstance(node, ast.ClassDef) else []
    declared = [part for part in body if _declared_name(part) in TRAITS]
    if not declared:
        return []
    read = {part.attr for part in ast.walk(ast.parse(source.text)) if isinstance(part, ast.Attribute)}
    return [part for part in declared if _declared_name(part) not in read]


def _declared_name(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _verbatim(source: ModuleSource, node: ast.stmt, omitted: Sequence[ast.stmt]) -> str:
    """Return the source of `node` without the statements `omitted` and the blank line after each."""
    body: list[Any] = getattr(node, "body", [])
    if any(isinstance(part, ast.Pass) and not hasattr(part, "lineno") for part in body):
        return ast.unparse(node)  # nothing but traits was in the class
    lines = source.text.splitlines()
    if node.end_lineno == _first_line(node):
        return ast.get_source_segment(source.text, node) or ast.unparse(node)
    hidden = {number for part in omitted for number in range(_first_line(part), (part.end_lineno or 0) + 2)}
    shown = range(_first_line(node), (node.end_lineno or 0) + 1)
    return "\n".join(lines[number - 1] for number in shown if number not in hidden)


def _first_line(node: ast.stmt) -> int:
    """Return the number of the first line of a statement, including its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def own_packages(modules: Iterable[str]) -> set[str]:
    """Return the top-level packages of modules, and this package's."""
    return {__name__.partition(".")[0], *(module.partition(".")[0] for module in modules)}
