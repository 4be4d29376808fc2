"""Usage: which functions, branches and attributes of a source file its network uses, found by running the network."""

from __future__ import annotations

import ast
import copy
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nas.networks.standalone.module_source import Function

MODULE = "nas_exported_network"
"""The name under which the file is run; classes look their module up by it."""


@dataclass
class Usage:
    """What a run has used. Nodes have the numbers of `numbered`.

    Attributes:
        outcomes: The truth values of each test, and of each operand of `and` and `or` in it.
        called: The functions that were called.
        returned: Of each function, whether a returned value was None.
        children: Of each class, by the names of its attributes: the modules, and None, that its instances hold.
    """

    outcomes: dict[int, set[bool]] = field(default_factory=lambda: defaultdict(set))
    called: set[int] = field(default_factory=set)
    returned: dict[int, set[bool]] = field(default_factory=lambda: defaultdict(set))
    children: dict[str, dict[str, list[nn.Module | None]]] = field(default_factory=dict)


def numbered(tree: ast.AST) -> dict[ast.AST, int]:
    """Return a number for each node."""
    return {node: number for number, node in enumerate(ast.walk(tree))}


def used(tree: ast.Module, run: Callable[[dict[str, Any]], nn.Module]) -> Usage:
    """Run a file, and return what was used.

    Args:
        tree: The file.
        run: Builds the network from the names of the file, calls it in all ways that matter, and returns it.
    """
    usage, module = Usage(), types.ModuleType(MODULE)
    twin = copy.deepcopy(tree)
    watched = _Watched(numbered(twin))
    code = compile(ast.fix_missing_locations(watched.visit(twin)), f"<{MODULE}>", "exec")

    def saw(number: int, value: Any) -> Any:
        usage.outcomes[number].add(bool(value))
        return value

    def returned(number: int, value: Any) -> Any:
        usage.returned[number].add(value is None)
        return value

    names = module.__dict__
    names |= {"__nas_saw__": saw, "__nas_returned__": returned, "__nas_called__": usage.called.add}
    names["__file__"] = "model.py"
    before = sys.modules.get(MODULE)
    sys.modules[MODULE] = module
    try:
        exec(code, names)
        network = run(names)
    finally:
        sys.modules.pop(MODULE)
        if before is not None:
            sys.modules[MODULE] = before
    usage.children = _children(network)
    return usage


def _children(network: nn.Module) -> dict[str, dict[str, list[nn.Module | None]]]:
    found: dict[str, dict[str, list[nn.Module | None]]] = {}
    for module in network.modules():
        for kind in type(module).__mro__:
            if kind.__module__ == MODULE:
                table = found.setdefault(kind.__name__, {})
                for name, child in module.named_children():
                    table.setdefault(name, []).append(child)
                for name in (name for name, value in vars(module).items() if value is None):
                    table.setdefault(name, []).append(None)
    return found


class _Watched(ast.NodeTransformer):
    """Reports the outcomes of tests, the calls of functions, and what they return."""

    def __init__(self, numbers: dict[ast.AST, int]):
        self._numbers = numbers
        self._functions: list[int] = []

    def _saw(self, test: ast.expr) -> ast.expr:
        number = self._numbers[test]
        if isinstance(test, ast.BoolOp):
            test.values = [self._saw(value) for value in test.values]
        else:
            test = self.visit(test)
        return _call("__nas_saw__", number, test)

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = self._saw(node.test)
        node.body = [self.visit(part) for part in node.body]
        node.orelse = [self.visit(part) for part in node.orelse]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        node.test = self._saw(node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if node.value is not None:
            node.value = _call("__nas_returned__", self._functions[-1], self.visit(node.value))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: Function) -> ast.AST:
        number = self._numbers[node]
        self._functions.append(number)
        self.generic_visit(node)
        self._functions.pop()
        called = ast.Expr(ast.Call(ast.Name("__nas_called__", ast.Load()), [ast.Constant(number)], []))
        node.body.insert(1 if ast.get_docstring(node) is not None else 0, called)
        return node


def _call(name: str, number: int, value: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), [ast.Constant(number), value], [])
