"""Simplification of a source file: what its network does not use is left out.

The file is not interpreted. What is known of it comes from a run, see `usage`.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from nas.networks.standalone.module_source import Function
from nas.networks.standalone.parameters import drop_unused_parameters, fold_options
from nas.networks.standalone.usage import Usage, numbered


def simplified(tree: ast.Module, usage: Usage, frozen: Collection[str]) -> ast.Module:
    """Return a file without the parts that a run has not used.

    These are branches, functions, methods, variables, parameters, and modules that return their input.

    Args:
        tree: The file. It is changed.
        usage: What the run has used.
        frozen: The top-level names whose definitions stay as they are.
    """
    numbers = numbered(tree)
    for index, statement in enumerate(tree.body):
        if isinstance(statement, Function | ast.ClassDef) and statement.name not in frozen:
            tree.body[index] = _Branches(usage, numbers).visit(statement)
    _drop_uncalled(tree, usage, numbers, frozen)
    shared = {*frozen, *_related(tree)}
    _drop_identities(tree, usage, shared)
    _drop_unread_attributes(tree, usage, shared)
    for function in _functions(tree, frozen):
        _drop_dead_stores(function)
        _drop_unused_locals(function)
        _narrow_return(function, usage, numbers)
    fold_options(tree, frozen)
    drop_unused_parameters(tree, frozen)
    _drop_unused_definitions(tree, frozen)
    return ast.fix_missing_locations(tree)


class _Branches(ast.NodeTransformer):
    """Replaces tests with one outcome by what they select."""

    def __init__(self, usage: Usage, numbers: dict[ast.AST, int]):
        self._usage, self._numbers = usage, numbers

    def _only(self, node: ast.AST) -> bool | None:
        """Return the outcome of a test; None if it had both or was not run."""
        outcomes = self._usage.outcomes.get(self._numbers[node], set())
        return next(iter(outcomes)) if len(outcomes) == 1 else None

    def _shorter(self, test: ast.expr) -> ast.expr:
        """Return a test without the operands that never decide it."""
        if not isinstance(test, ast.BoolOp):
            return test
        neutral = isinstance(test.op, ast.And)
        kept = [value for value in test.values if self._only(value) is not neutral]
        for position, value in enumerate(kept):
            if self._only(value) is (not neutral):  # what follows is never evaluated
                kept = kept[: position + 1]
                break
        kept = [self._shorter(value) for value in kept]
        return kept[0] if len(kept) == 1 else ast.BoolOp(test.op, kept)

    def visit_If(self, node: ast.If) -> Any:
        outcome = self._only(node.test)
        if outcome is not None:
            chosen = self._statements(node.body if outcome else node.orelse)
            return [part for part in chosen if not isinstance(part, ast.Pass)]
        node.test = self.visit(self._shorter(node.test))
        node.body, node.orelse = self._statements(node.body) or [ast.Pass()], self._statements(node.orelse)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        outcome = self._only(node.test)
        if outcome is not None:
            return self._visited(node.body if outcome else node.orelse)
        node.test = self._visited(self._shorter(node.test))
        node.body, node.orelse = self._visited(node.body), self._visited(node.orelse)
        return node

    def _visited(self, node: ast.expr) -> ast.expr:
        found = self.visit(node)
        assert isinstance(found, ast.expr)
        return found

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = self._statements(node.body) or [ast.Pass()]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter, node.body = self._visited(node.iter), self._statements(node.body) or [ast.Pass()]
        return node

    def visit_With(self, node: ast.With) -> ast.AST:
        node.body = self._statements(node.body) or [ast.Pass()]
        return node

    def _statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return the statements of a body up to the first one that leaves it."""
        kept: list[ast.stmt] = []
        for part in body:
            found = self.visit(part)
            kept += found if isinstance(found, list) else [found]
            if kept and isinstance(kept[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                break
        return kept


class _Pruner(ast.NodeTransformer):
    """Drops compound statements whose bodies have become empty."""

    def _pruned(self, node: Any) -> Any:
        self.generic_visit(node)
        if not node.body and not getattr(node, "orelse", []):
            return None
        node.body = node.body or [ast.Pass()]
        return node

    def visit_If(self, node: ast.If) -> Any:
        return self._pruned(node)

    def visit_For(self, node: ast.For) -> Any:
        return self._pruned(node)

    def visit_With(self, node: ast.With) -> Any:
        return self._pruned(node)


def _defined(statement: ast.stmt) -> str:
    """Return the name that a top-level statement defines, else ""."""
    if isinstance(statement, Function | ast.ClassDef):
        return statement.name
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _classes(tree: ast.Module, frozen: Collection[str]) -> list[ast.ClassDef]:
    """Return the classes of a file that are not frozen."""
    return [part for part in tree.body if isinstance(part, ast.ClassDef) and part.name not in frozen]


def _related(tree: ast.Module) -> set[str]:
    """Return the classes of a file that have a base in it, or are one: they share attributes."""
    own = {kind.name for kind in _classes(tree, ())}
    pairs = [(kind.name, base.id) for kind in _classes(tree, ()) for base in kind.bases if isinstance(base, ast.Name)]
    return {name for pair in pairs if pair[1] in own for name in pair}


def _functions(tree: ast.Module, frozen: Collection[str]) -> list[Function]:
    """Return the functions of a file and the methods of its classes."""
    own = [part for part in tree.body if isinstance(part, Function) and part.name not in frozen]
    return own + [part for kind in _classes(tree, frozen) for part in kind.body if isinstance(part, Function)]


def _drop_uncalled(tree: ast.Module, usage: Usage, numbers: dict[ast.AST, int], frozen: Collection[str]) -> None:
    """Drop functions and methods that are not called. Those with a name of nn.Module's are called by torch."""

    def is_kept(part: ast.stmt) -> bool:
        if not isinstance(part, Function) or numbers[part] in usage.called:
            return True
        return hasattr(nn.Module, part.name) or part.name in frozen

    tree.body = [part for part in tree.body if is_kept(part)]
    for kind in _classes(tree, frozen):
        kind.body = [part for part in kind.body if is_kept(part)] or [ast.Pass()]


def _returns_its_input(kind: ast.ClassDef) -> bool:
    """Whether the method `forward` of a class returns its only argument."""
    for part in kind.body:
        if isinstance(part, ast.FunctionDef) and part.name == "forward":
            last, given = part.body[-1], [arg.arg for arg in part.args.args]
            body = part.body[1:] if ast.get_docstring(part) is not None else part.body
            is_return = len(body) == 1 and isinstance(last, ast.Return) and isinstance(last.value, ast.Name)
            return is_return and len(given) == 2 and last.value.id == given[1]  # type: ignore[attr-defined]
    return False


def _drop_identities(tree: ast.Module, usage: Usage, frozen: Collection[str]) -> None:
    """Replace calls of modules that return their input by the input."""
    idle = {kind.name for kind in _classes(tree, frozen) if _returns_its_input(kind)} | {"Identity"}
    for kind in _classes(tree, frozen):
        for name, children in usage.children.get(kind.name, {}).items():
            if all(child is not None and type(child).__name__ in idle for child in children):
                _drop_attribute(kind, name)


def _drop_unread_attributes(tree: ast.Module, usage: Usage, frozen: Collection[str]) -> None:
    """Drop attributes that nothing reads and that hold no weights."""
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    foreign = {node.attr for node in loads if not _is_own(node, node.attr)}
    for kind in _classes(tree, frozen):
        parts = [node for node in ast.walk(kind) if isinstance(node, ast.Attribute) and _is_own(node, node.attr)]
        read = {node.attr for node in parts if isinstance(node.ctx, ast.Load)} | foreign
        for name, children in usage.children.get(kind.name, {}).items():
            if name not in read and not any(child is not None and child.state_dict() for child in children):
                _drop_attribute(kind, name)


def _drop_attribute(kind: ast.ClassDef, name: str) -> None:
    """Drop an attribute whose only uses are calls with one argument, which is their result."""
    calls = [node for node in ast.walk(kind) if isinstance(node, ast.Call) and _is_own(node.func, name)]
    uses = [node for node in ast.walk(kind) if _is_own(node, name) and isinstance(node.ctx, ast.Load)]  # type: ignore[attr-defined]
    if len(uses) != len(calls) or any(len(call.args) != 1 or call.keywords for call in calls):
        return

    class Dropped(_Pruner):
        def visit_Call(self, node: ast.Call) -> Any:
            self.generic_visit(node)
            return node.args[0] if _is_own(node.func, name) else node

        def visit_Assign(self, node: ast.Assign) -> Any:
            return None if any(_is_own(target, name) for target in node.targets) else self.generic_visit(node)

        def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
            return None if _is_own(node.target, name) else self.generic_visit(node)

    Dropped().visit(kind)


def _is_own(node: ast.AST | None, name: str) -> bool:
    """Whether a node is `self.name`."""
    is_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return is_self and node.attr == name  # type: ignore[union-attr]


def _drop_dead_stores(function: Function) -> None:
    """Drop first values of attributes that later statements of the same body replace before they are read."""
    kept: list[ast.stmt] = []
    for position, part in enumerate(function.body):
        target = part.targets[0] if isinstance(part, ast.Assign) else getattr(part, "target", None)
        is_value = getattr(part, "value", None) is not None
        by = _replacing(_own_name(target), function.body[position + 1 :]) if is_value else None
        if by is None:
            kept.append(part)
        elif isinstance(by, ast.If):
            kept += _declared(part)
    function.body = kept


def _own_name(node: ast.AST | None) -> str:
    """Return the name in `self.name`, else ""."""
    return node.attr if isinstance(node, ast.Attribute) and _is_own(node, node.attr) else ""


def _replacing(name: str, rest: Sequence[ast.stmt]) -> ast.stmt | None:
    """Return the statement that surely assigns `self.name` before anything reads it; None if there is none."""
    for part in rest:
        uses = [node for node in ast.walk(part) if _is_own(node, name)]
        if isinstance(part, ast.Assign) and len(uses) == 1 and uses[0] in part.targets:
            return part
        if isinstance(part, ast.If) and uses and not any(_is_own(node, name) for node in ast.walk(part.test)):
            return part if _replacing(name, part.body) and _replacing(name, part.orelse) else None
        if uses:
            return None
    return None


def _declared(part: ast.stmt) -> list[ast.stmt]:
    """Return a declaration without a value: two branches assign values of different types."""
    if not isinstance(part, ast.AnnAssign):
        return []
    return [ast.AnnAssign(part.target, _without_none(part.annotation), None, 0)]


def _without_none(annotation: ast.expr) -> ast.expr:
    is_optional = isinstance(annotation, ast.BinOp) and isinstance(annotation.right, ast.Constant)
    return annotation.left if is_optional else annotation  # type: ignore[attr-defined]


def _drop_unused_locals(function: Function) -> None:
    """Drop assignments to local variables that nothing reads."""
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}

    class Dropped(_Pruner):
        def visit_Assign(self, node: ast.Assign) -> Any:
            (target, *others) = node.targets
            return None if not others and isinstance(target, ast.Name) and target.id not in read else node

        def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
            return None if isinstance(node.target, ast.Name) and node.target.id not in read else node

    function.body = [part for part in map(Dropped().visit, function.body) if part is not None] or [ast.Pass()]


def _narrow_return(function: Function, usage: Usage, numbers: dict[ast.AST, int]) -> None:
    """Drop `| None` from what a function returns if it never returned None."""
    if function.returns and usage.returned.get(numbers[function]) == {False}:
        function.returns = _without_none(function.returns)


def _drop_unused_definitions(tree: ast.Module, frozen: Collection[str]) -> None:
    """Drop top-level definitions that nothing in the file uses."""

    def mentioned(statement: ast.stmt) -> set[str]:
        return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}

    while True:
        uses = [mentioned(part) for part in tree.body]
        unused = [
            part
            for number, part in enumerate(tree.body)
            if (name := _defined(part))
            and name not in frozen
            and not any(name in each for other, each in enumerate(uses) if other != number)
        ]
        if not unused:
            return
        tree.body = [part for part in tree.body if part not in unused]


def with_typed_returns(tree: ast.Module) -> ast.Module:
    """Return a file in which what modules return has a type if it is added and returned: their calls have none."""

    class Typed(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
            last = node.body[-1]
            value = last.value if isinstance(last, ast.Return) else None
            is_sum = isinstance(value, ast.BinOp) and any(_own_name(part.func) for part in _calls(value))
            if is_sum and isinstance(node.returns, ast.Name):
                name = ast.Name("output", ast.Store())
                typed = ast.AnnAssign(name, ast.Name(node.returns.id), value, 1)
                node.body[-1:] = [typed, ast.Return(ast.Name("output"))]
            return node

    Typed().visit(tree)
    return ast.fix_missing_locations(tree)


def _calls(value: ast.expr) -> list[ast.Call]:
    """Return the calls that are terms of a sum or a product."""
    if isinstance(value, ast.BinOp):
        return _calls(value.left) + _calls(value.right)
    return [value] if isinstance(value, ast.Call) else []
