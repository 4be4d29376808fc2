"""Source rewriter: resolves the names that a top-level statement uses, and renames them as the bundle does."""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from nas.errors import ExportError
from nas.networks.standalone.module_source import (
    Comprehension,
    Definition,
    Function,
    Inside,
    Modules,
    ModuleSource,
    Outside,
    Target,
    bound_names,
)

_NOTHING = ast.Pass()
"""Stands for an import that is not needed."""


class Names(Protocol):
    """Gives every definition and import its name in the bundle."""

    modules: Modules

    def name_of(self, target: Definition | Outside) -> str:
        """Return the name."""


@dataclass
class Uses:
    """A rewritten statement and what it uses.

    Attributes:
        node: The statement.
        is_changed: Whether it differs from its source.
        now: What running the statement uses.
        later: What the bodies of its functions use.
        in_annotations: What only annotations use.
        inner_imports: The modules that it imports itself.
    """

    node: ast.stmt
    is_changed: bool = False
    now: dict[Definition | Outside, None] = field(default_factory=dict)
    later: dict[Definition | Outside, None] = field(default_factory=dict)
    in_annotations: dict[Definition | Outside, None] = field(default_factory=dict)
    inner_imports: set[str] = field(default_factory=set)


def rewrite(node: ast.stmt, source: ModuleSource, names: Names) -> Uses:
    """Return a top-level statement of a module with the bundle's names, and what it uses.

    Raises:
        ExportError: It uses a module in a way that copied definitions cannot replace. The error names file and line.
    """
    rewriter = _Rewriter(Uses(copy.deepcopy(node)), source, names)
    result = rewriter.visit(rewriter.uses.node)
    rewriter.uses.node = ast.fix_missing_locations(result)
    return rewriter.uses


@dataclass
class _Scope:
    """The names of a function or a class; those of local imports with what they stand for."""

    names: dict[str, Target | None]
    is_class: bool = False


class _Rewriter(ast.NodeTransformer):
    def __init__(self, uses: Uses, source: ModuleSource, names: Names):
        self.uses, self._source, self._names = uses, source, names
        self._scopes: list[_Scope] = []
        self._functions = 0
        self._is_annotation = False

    def _look_up(self, name: str) -> Target | None:
        """Return what a name stands for, or None for a local variable, a builtin and an unknown name."""
        for index, scope in enumerate(reversed(self._scopes)):
            if name in scope.names and (index == 0 or not scope.is_class):
                return scope.names[name]
        return self._names.modules.find(self._source.module.__name__, name)

    def _name_of(self, target: Definition | Outside) -> str:
        uses = self.uses.later if self._functions else self.uses.now
        (self.uses.in_annotations if self._is_annotation else uses)[target] = None
        return self._names.name_of(target)

    def _renamed(self, name: str, node: ast.AST) -> str:
        target = self._look_up(name)
        if target is None:
            return name
        if isinstance(target, Inside):
            raise self._error(f"uses the module '{target.module}' as a value; import its names instead", node)
        return self._changed(name, self._name_of(target))

    def _changed(self, before: str, after: str) -> str:
        self.uses.is_changed |= before != after
        return after

    def _error(self, rule: str, node: ast.AST) -> ExportError:
        return ExportError(rule, where=f"{self._source.file}, line {getattr(node, 'lineno', '?')}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._renamed(node.id, node)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._renamed(name, node) for name in node.names]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Replace `module.name` by the name, if the module is copied."""
        chain = _chain(node)
        target = self._look_up(chain[0].id) if isinstance(chain[0], ast.Name) else None
        if not isinstance(target, Inside):
            return self.generic_visit(node)
        for place in chain[1:]:
            assert isinstance(place, ast.Attribute) and isinstance(target, Inside)
            found = self._names.modules.find(target.module, place.attr)
            if found is None or not isinstance(place.ctx, ast.Load):
                raise self._error(f"the source of the module '{target.module}' does not define '{place.attr}'", node)
            if not isinstance(found, Inside):
                self.uses.is_changed = True
                name = ast.Name(self._name_of(found), ast.Load())
                return _replaced(node, place, name)
            target = found
        raise self._error(f"uses the module '{target.module}' as a value; import its names instead", node)

    def _annotation(self, node: ast.expr | None) -> Any:
        """Rewrite an annotation, also one in a string. Names that cannot be resolved stay as they are."""
        if node is None:
            return None
        before, self._is_annotation = self._is_annotation, True
        try:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    self._string(part)
            with contextlib.suppress(ExportError):
                return self.visit(node)
            return node
        finally:
            self._is_annotation = before

    def _string(self, node: ast.Constant) -> None:
        with contextlib.suppress(SyntaxError, ExportError):
            parsed = ast.parse(str(node.value), mode="eval").body
            text = ast.unparse(parsed)
            if (after := ast.unparse(self.visit(parsed))) != text:
                node.value = after

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = self._annotation(node.annotation)
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: Function) -> ast.AST:
        if not self._scopes:
            node.name = self._renamed(node.name, node)
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        self._defaults(node.args)
        for each in _parameters(node.args):
            each.annotation = self._annotation(each.annotation)
        node.returns = self._annotation(node.returns)
        with self._function_scope(node.args, node.body):
            node.body = self._statements(node.body)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._defaults(node.args)
        with self._function_scope(node.args, [node.body]):
            node.body = self.visit(node.body)
        return node

    def _defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(each) for each in args.defaults]
        args.kw_defaults = [each and self.visit(each) for each in args.kw_defaults]

    @contextlib.contextmanager
    def _function_scope(self, args: ast.arguments, body: Iterable[ast.AST]) -> Iterator[None]:
        parts = list(body)
        shared = {name for part in parts for name in _declared_elsewhere(part)}
        names = {*(each.arg for each in _parameters(args)), *(name for part in parts for name in bound_names(part))}
        self._scopes.append(_Scope(dict.fromkeys(names - shared)))
        self._functions += 1
        yield
        self._functions -= 1
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if not self._scopes:
            node.name = self._renamed(node.name, node)
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        node.bases = [self.visit(each) for each in node.bases]
        for each in node.keywords:
            each.value = self.visit(each.value)
        scope = _Scope({}, is_class=True)
        self._scopes.append(scope)
        body = []
        for part in node.body:  # a name of the class hides one of the module only after its definition
            bound = list(bound_names(part))
            if isinstance(part, Function | ast.ClassDef):
                body += self._statements([part])
                scope.names |= dict.fromkeys(bound)
            else:
                body += self._class_statement(part, scope, bound)
        self._scopes.pop()
        node.body = body or [ast.Pass()]
        return node

    def _class_statement(self, part: ast.stmt, scope: _Scope, bound: list[str]) -> list[ast.stmt]:
        if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
            part.value = self.visit(part.value)
            kept, part.value = part.value, ast.Constant(None)
            scope.names |= dict.fromkeys(bound)
            self.visit(part)
            part.value = kept
            return [part]
        scope.names |= dict.fromkeys(bound)
        return self._statements([part])

    def _statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for part in body:
            result = self.visit(part)
            found += result if isinstance(result, list) else [result]
        return [part for part in found if part is not _NOTHING] or [_NOTHING]

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        return self._comprehension(node)

    def _comprehension(self, node: Comprehension) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        kept, first.iter = first.iter, ast.Constant(None)
        names = [name for each in node.generators for name in bound_names(each.target)]
        self._scopes.append(_Scope(dict.fromkeys(names)))
        self.generic_visit(node)
        self._scopes.pop()
        first.iter = kept
        return node

    def visit_Import(self, node: ast.Import) -> Any:
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        return self._import(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> Any:
        """Keep an import from outside; bind the copied definitions in place of any other."""
        kept: list[ast.stmt] = []
        for alias, entry in zip(node.names, self._source.entries(node), strict=True):
            scope = self._scopes[-1] if self._scopes else None
            name = entry.alias if scope else self._renamed(entry.alias, node)
            try:
                target: Target = self._names.modules.imported(entry)
            except ExportError as error:  # `try: import x` also has a branch for this
                kept.append(ast.parse(f"raise ImportError({str(error)!r})").body[0])
                self.uses.is_changed = True
                continue
            if target == entry:
                self.uses.inner_imports.add(entry.module)
                renamed = ast.alias(alias.name, alias.asname if name == entry.alias else name)
                kept.append(type(node)(**{**dict(ast.iter_fields(node)), "names": [renamed]}))
                continue
            self.uses.is_changed = True
            if scope:
                scope.names[entry.alias] = target
            elif not isinstance(target, Inside):
                value = self._name_of(target)
                kept += [] if value == name else ast.parse(f"{name} = {value}").body
        if len(kept) == len(node.names) and not self.uses.is_changed:
            return node
        return kept or [_NOTHING]


def _chain(node: ast.Attribute) -> list[ast.expr]:
    """Return the parts of `a.b.c` from its root: `a`, `a.b`, `a.b.c`."""
    parts: list[ast.expr] = [node]
    while isinstance(last := parts[-1], ast.Attribute):
        parts.append(last.value)
    return parts[::-1]


def _replaced(node: ast.expr, place: ast.expr, new: ast.expr) -> ast.expr:
    """Return the attribute chain `node` with its part `place` replaced."""
    if node is place:
        return new
    assert isinstance(node, ast.Attribute)
    return ast.Attribute(_replaced(node.value, place, new), node.attr, node.ctx)


def _parameters(args: ast.arguments) -> list[ast.arg]:
    several = [each for each in (args.vararg, args.kwarg) if each]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *several]


def _declared_elsewhere(node: ast.AST) -> Iterator[str]:
    """Yield the names that a function declares global or nonlocal."""
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _declared_elsewhere(child)
