"""Parameters of a simplified source file: those that no call sets, or that a function does not read, are left out."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from nas.networks.standalone.module_source import Function

TORCH_DEFAULTS = {"groups": 1, "dilation": 1, "bias": True}
"""Keywords of torch's layers that need not be written with these values."""


@dataclass
class _Callee:
    """A function, or the method that makes an object of a class, which is only called by its name."""

    function: Function
    first: int
    calls: list[ast.Call]

    def parameters(self) -> Iterator[tuple[ast.arg, ast.expr | None]]:
        """Yield the parameters that a caller gives, with their defaults."""
        args = self.function.args
        positional = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(positional) - len(args.defaults)) + args.defaults
        yield from list(zip(positional, defaults, strict=True))[self.first :]
        yield from zip(args.kwonlyargs, args.kw_defaults, strict=True)

    def given(self, arg: ast.arg) -> list[ast.expr]:
        """Return the values that calls give a parameter."""
        args = self.function.args
        positional = [*args.posonlyargs, *args.args]
        found = [word.value for call in self.calls for word in call.keywords if word.arg == arg.arg]
        if arg in positional:
            position = positional.index(arg) - self.first
            found += [call.args[position] for call in self.calls if len(call.args) > position]
        return found

    def drop(self, arg: ast.arg) -> None:
        """Drop a parameter from the signature and all calls."""
        args = self.function.args
        for call in self.calls:
            call.keywords = [word for word in call.keywords if word.arg != arg.arg]
        if arg in args.kwonlyargs:
            args.kw_defaults.pop(args.kwonlyargs.index(arg))
            args.kwonlyargs.remove(arg)
            return
        position, missing = args.args.index(arg), len(args.args) - len(args.defaults)
        for call in self.calls:
            call.args = [each for number, each in enumerate(call.args) if number != position - self.first]
        if position >= missing:
            args.defaults.pop(position - missing)
        args.args.remove(arg)


def _callees(tree: ast.Module, frozen: Collection[str]) -> list[_Callee]:
    """Return what is only called by its name, without `*` and `**`."""
    found: dict[str, _Callee] = {}
    for part in tree.body:
        if isinstance(part, Function) and not part.args.posonlyargs:
            found[part.name] = _Callee(part, 0, [])
        for each in part.body if isinstance(part, ast.ClassDef) else ():
            if isinstance(each, Function) and each.name == "__init__":
                found[part.name] = _Callee(each, 1, [])  # type: ignore[attr-defined]
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names[node.id] += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in found:
            found[node.func.id].calls.append(node)
    annotated = Counter(name for node in ast.walk(tree) for name in _annotated(node))

    def is_plain(name: str, calls: list[ast.Call]) -> bool:
        starred = any(isinstance(arg, ast.Starred) for call in calls for arg in call.args)
        unpacked = any(word.arg is None for call in calls for word in call.keywords)
        return not starred and not unpacked and names[name] == len(calls) + annotated[name]

    return [callee for name, callee in found.items() if name not in frozen and is_plain(name, callee.calls)]


def _annotated(node: ast.AST) -> Iterator[str]:
    """Yield the names in the annotation of a parameter, or of what a function returns."""
    hint = node.returns if isinstance(node, Function) else node.annotation if isinstance(node, ast.arg) else None
    for part in ast.walk(hint) if hint else ():
        if isinstance(part, ast.Name):
            yield part.id


def drop_unused_parameters(tree: ast.Module, frozen: Collection[str]) -> None:
    """Drop parameters that a function does not read."""
    for callee in _callees(tree, frozen):
        body = callee.function.body
        read = {node.id for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}
        for arg, _ in list(callee.parameters()):
            if arg.arg not in read:
                callee.drop(arg)


def fold_options(tree: ast.Module, frozen: Collection[str]) -> None:
    """Replace parameters by their default if it means "off" and no call gives another value."""
    for callee in _callees(tree, frozen):
        for arg, default in list(callee.parameters()):
            if not isinstance(default, ast.Constant):
                continue
            for call in callee.calls:
                call.keywords = [word for word in call.keywords if not _repeats(word, arg, default)]
            if not _is_off(default.value) or callee.given(arg):
                continue
            stored = [node for node in ast.walk(callee.function) if isinstance(node, ast.Name) and node.id == arg.arg]
            if all(isinstance(node.ctx, ast.Load) for node in stored):
                callee.function.body = [_Replaced(arg.arg, default).visit(part) for part in callee.function.body]
                callee.drop(arg)
    for number, part in enumerate(tree.body):
        if getattr(part, "name", "") not in frozen:
            tree.body[number] = _Tidied().visit(part)


def _repeats(word: ast.keyword, arg: ast.arg, default: ast.Constant) -> bool:
    """Whether a keyword gives a parameter its default."""
    return word.arg == arg.arg and ast.dump(word.value) == ast.dump(default)


def _is_off(value: object) -> bool:
    """Whether a default means that an option is not used: no groups, no bias, no layer."""
    return isinstance(value, bool) or value is None or value in (0, 1, "none")


class _Replaced(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.Constant):
        self._name, self._value = name, value

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self._value.value) if node.id == self._name else node


class _Tidied(ast.NodeTransformer):
    """Shortens what constants have made longer than needed: `False and x`, `y = y`, `nn.Linear(8, 8, bias=True)`."""

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "nn":
            node.keywords = [word for word in node.keywords if not self._is_default(word)]
        return node

    @staticmethod
    def _is_default(word: ast.keyword) -> bool:
        default = TORCH_DEFAULTS.get(word.arg or "")
        return isinstance(word.value, ast.Constant) and default is not None and word.value.value is default

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        neutral = isinstance(node.op, ast.And)
        first = node.values[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, bool):
            if first.value is not neutral:
                return first
            rest = node.values[1:]
            return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        (target, *others) = node.targets
        is_same = isinstance(target, ast.Name) and isinstance(node.value, ast.Name) and target.id == node.value.id
        return None if is_same and not others else node
