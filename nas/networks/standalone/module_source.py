"""Module sources: the top-level names of Python modules, and the definitions or imports that they stand for."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import ExportError, reason
from nas.utils.imports import find_spec

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Definition:
    """A top-level name that statements of a module define."""

    module: str
    name: str


@dataclass(frozen=True)
class Outside:
    """An import that stays an import.

    Attributes:
        module: The absolute name of the module.
        name: The name in that module; "" stands for the module itself.
        alias: The name that the code uses. For `import a.b` it is "a".
        for_typing: Whether the import is only made by type checkers.
    """

    module: str
    name: str
    alias: str
    for_typing: bool = False


@dataclass(frozen=True)
class Inside:
    """A module whose definitions are copied."""

    module: str


Target = Definition | Outside | Inside


@dataclass
class ModuleSource:
    """The source of a module, sorted by the names that it binds at its top level.

    Attributes:
        module: The imported module.
        text: Its source.
        file: The file, as messages name it.
        statements: The statements that define or change each name, in order.
        imports: Imports by the name that they bind, as (module, name in it or "", whether for type checkers only).
        stars: The modules of `from module import *`, in order.
    """

    module: ModuleType
    text: str
    file: str
    statements: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[Outside]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, module: ModuleType) -> ModuleSource:
        """Return the source of a module. Raises ExportError if it has none."""
        loader: Any = getattr(module, "__loader__", None)
        try:
            text = loader.get_source(module.__name__)
        except (OSError, ImportError, AttributeError):
            text = None
        if text is None:
            raise ExportError(f"the module '{module.__name__}' has no Python source to copy")
        known = _READ.get(module.__name__)
        if known is not None and known.module is module and known.text == text:
            return known
        source = cls(module, text, getattr(module, "__file__", None) or module.__name__)
        tree = ast.parse(text)
        for statement in tree.body:
            source._read(statement)
        for statement in tree.body:
            for name in source._changed_by(statement):
                if statement not in source.statements.get(name, [statement]):
                    source.statements[name].append(statement)
        for name, found in source.statements.items():  # a name may be imported first and replaced later
            found += [node for node in tree.body if name in source.imports and name in imported_names(node)]
            found.sort(key=lambda node: (node.lineno, node.col_offset))
        _READ[module.__name__] = source
        return source

    @property
    def package(self) -> str:
        """The package that relative imports refer to."""
        name = self.module.__name__
        return name if hasattr(self.module, "__path__") else name.rpartition(".")[0]

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._read_import(statement)
        elif isinstance(statement, ast.If) and _named(statement.test) == "TYPE_CHECKING":
            for node in statement.body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self._read_import(node, for_typing=True)
            for node in statement.orelse:
                self._read(node)
        elif not (isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)):
            for name in bound_names(statement):
                found = self.statements.setdefault(name, [])
                if statement not in found:
                    found.append(statement)

    def _changed_by(self, statement: ast.stmt) -> list[str]:
        """Return the names whose objects a statement changes, also through a function that it calls or decorates by."""
        calls: list[ast.expr] = list(getattr(statement, "decorator_list", []))
        calls += [statement.value] if isinstance(statement, ast.Expr) else []
        names = _changed_names(statement)
        for call in calls:
            called = _named(call.func if isinstance(call, ast.Call) else call)
            for function in self.statements.get(called, []):
                names += [name for part in ast.walk(function) for name in _changed_names(part) if part is not statement]
        return names

    def _read_import(self, node: ast.Import | ast.ImportFrom, for_typing: bool = False) -> None:
        for entry in self.entries(node, for_typing):
            if entry.name == "*":
                self.stars.append(entry.module)
            else:
                self.imports.setdefault(entry.alias, []).append(entry)

    def entries(self, node: ast.Import | ast.ImportFrom, for_typing: bool = False) -> list[Outside]:
        """Return what an import statement of this module binds, with absolute module names."""
        if isinstance(node, ast.Import):
            return [
                Outside(alias.name, "", alias.asname or alias.name.partition(".")[0], for_typing)
                for alias in node.names
            ]
        origin = "." * node.level + (node.module or "")
        try:
            origin = importlib.util.resolve_name(origin, self.package)
        except ImportError as error:
            raise ExportError(str(error), where=f"{self.file}, line {node.lineno}") from error
        return [Outside(origin, alias.name, alias.asname or alias.name, for_typing) for alias in node.names]


_READ: dict[str, ModuleSource] = {}
"""The sources that were read, by module. They are never changed: each export would parse the same files again."""


class Modules:
    """Finds what names stand for, across the modules of one exported network.

    Args:
        own: The top-level packages whose definitions are copied in any case.
    """

    def __init__(self, own: set[str]):
        self._own = own
        self._sources: dict[str, ModuleSource] = {}
        self._is_copied: dict[str, bool] = {}

    def source(self, name: str) -> ModuleSource:
        """Return the source of the module `name`. Raises ExportError if it cannot be imported."""
        if name not in self._sources:
            self._sources[name] = ModuleSource.read(import_module(name))
        return self._sources[name]

    def is_copied(self, module: str) -> bool:
        """Whether definitions of a module are copied.

        Those of the standard library and of other installed distributions are imported instead.
        """
        top = module.partition(".")[0]
        if top not in self._is_copied:
            self._is_copied[top] = top in self._own or self._is_local(top)
        return self._is_copied[top]

    def _is_local(self, top: str) -> bool:
        """Whether a top-level module belongs to no installed distribution, or to the same one as the own packages."""
        if top in sys.stdlib_module_names or top in ("torch", "safetensors"):
            return False
        spec = find_spec(top)
        if spec is None:
            return False
        distributions = distributions_by_package()
        if any(set(distributions.get(top, ())) & set(distributions.get(own, ())) for own in self._own):
            return True
        file = spec.origin or next(iter(spec.submodule_search_locations or []), "")
        return top not in distributions and not {"site-packages", "dist-packages"} & set(Path(file).parts)

    def find(self, module: str, name: str) -> Target | None:
        """Return what `name` stands for at the top level of a copied module, or None if the module does not bind it.

        Raises:
            ExportError: The name is imported from a module that cannot be imported or read.
        """
        source = self.source(module)
        if name in source.statements:
            value = getattr(source.module, name, None)
            if isinstance(value, ModuleType) and self.is_copied(value.__name__):
                return Inside(value.__name__)
            return Definition(module, name)
        if name in source.imports:
            entry = source.imports[name][-1]
            itself = (entry.module, entry.name) == (module, name)  # `from . import name` in a package
            return self._submodule(source, name) if itself else self.imported(entry)
        for star in reversed(source.stars):
            offered = import_module(star)
            if name in getattr(offered, "__all__", [key for key in vars(offered) if not key.startswith("_")]):
                return self.imported(Outside(star, name, name))
        return self._submodule(source, name)

    def _submodule(self, source: ModuleSource, name: str) -> Target | None:
        full = f"{source.module.__name__}.{name}"
        if hasattr(source.module, "__path__") and (full in sys.modules or importlib.util.find_spec(full)):
            return Inside(full)
        return None

    def imported(self, entry: Outside) -> Target:
        """Return what an import binds: the import itself, or the definition or module that is copied instead."""
        if not self.is_copied(entry.module):
            return entry
        if not entry.name:
            return Inside(entry.module if entry.alias != entry.module.partition(".")[0] else entry.alias)
        found = self.find(entry.module, entry.name)
        if found is None:
            raise ExportError(f"the source of the module '{entry.module}' does not define '{entry.name}'")
        return found


def import_module(name: str) -> ModuleType:
    """Return the module `name`. Raises ExportError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ExportError(f"the module '{name}' cannot be imported ({reason(error)})") from error


@functools.cache
def distributions_by_package() -> Mapping[str, list[str]]:
    """Return the names of the installed distributions of each top-level package."""
    return importlib.metadata.packages_distributions()


def bound_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds in its own scope: assignments, definitions, imports, `as` and patterns."""
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Lambda | Comprehension):
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from imported_names(node)
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    for key in ("name", "rest") if isinstance(node, ast.ExceptHandler | ast.pattern) else ():
        if isinstance(name := getattr(node, key, None), str):
            yield name
    for child in ast.iter_child_nodes(node):
        yield from bound_names(child)


def imported_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement binds if it is an import."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return []
    return [alias.asname or alias.name.partition(".")[0] for alias in node.names]


def _changed_names(statement: ast.AST) -> list[str]:
    """Return the names whose objects a statement changes: `x.y = 1`, `x["y"] = 1`, `x.update(...)`, `@x.register`.

    Statements inside of loops, conditions, `with` and `try` count too.
    """
    changed: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        changed = [target for target in statement.targets if isinstance(target, ast.Attribute | ast.Subscript)]
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        changed = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        changed = call.args[:1] if _named(call.func) in ("setattr", "delattr") else [call.func]
    elif isinstance(statement, Function):
        changed = [node.func if isinstance(node, ast.Call) else node for node in statement.decorator_list]
        changed = [node for node in changed if isinstance(node, ast.Attribute)]
    elif not isinstance(statement, ast.ClassDef | ast.expr):  # loops, conditions, `with`, `try`
        return [name for part in ast.iter_child_nodes(statement) for name in _changed_names(part)]
    return [name for name in map(_root, changed) if name]


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _named(node: ast.expr) -> str:
    """Return the last name of `name` or `module.name`, else ""."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
