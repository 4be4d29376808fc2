"""Specialization: makes the copied source of a network a textbook's, with the options that the network uses."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Shape
from nas.errors import ExportError
from nas.networks.standalone.docstrings import clean_docstrings, parameters_of
from nas.networks.standalone.module_source import Function
from nas.networks.standalone.simplify import simplified, with_typed_returns
from nas.networks.standalone.usage import used

MOST_ROUNDS = 20
NETWORK = ("build", "load", "Network", "FeatureMaps")
"""What is specialized, also if a function uses it that is not."""
LINE_LENGTH = 88
"""Of the formatted file: the default of its formatters."""


@functools.lru_cache(maxsize=64)
def specialized(source: str, shape: Shape, rest: str) -> str:
    """Return a source file without the branches, options and helpers that its network does not use.

    Args:
        source: A file with a function `build()`, which returns the network, and a class `FeatureMaps`.
        shape: The input (C, H, W).
        rest: What follows in the file. What it uses is not run here, and stays as it is.
    """
    tree = ast.parse(source)
    written = parameters_of(tree)
    frozen = {*_reached(tree, rest), "build", "CLASSES"}
    for _ in range(MOST_ROUNDS):
        before = ast.unparse(tree)
        tree = simplified(tree, used(tree, lambda names: _run(names, shape)), frozen)
        if ast.unparse(tree) == before:
            break
    clean_docstrings(tree, written)
    return ast.unparse(with_typed_returns(tree))


def _run(names: dict[str, Any], shape: Shape) -> nn.Module:
    """Build a network without memory for its weights, and use it as users do."""
    with torch.device("meta"):
        network: nn.Module = names["build"]()
        for norm in network.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.forward = _unchanged  # type: ignore[method-assign, assignment]  # torch's takes long without memory
        for module in (network, names["FeatureMaps"](network)):
            for mode in (False, True):
                module.train(mode)
                module(torch.empty(2, *shape))
        network.load_state_dict(network.state_dict())
    return network


def _unchanged(x: Tensor) -> Tensor:
    return x


def _reached(tree: ast.Module, rest: str) -> set[str]:
    """Return the names that the rest of a file uses, and those of functions, classes and methods also indirectly."""
    bodies: dict[str, list[ast.AST]] = {}
    for part in tree.body:
        if isinstance(part, Function | ast.ClassDef):
            bodies.setdefault(part.name, []).append(part)
        for method in part.body if isinstance(part, ast.ClassDef) else ():
            if isinstance(method, Function) and not hasattr(nn.Module, method.name):
                bodies.setdefault(method.name, []).append(method)
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(rest)]
    while waiting:
        parts = list(ast.walk(waiting.pop()))
        names = {getattr(node, "id", getattr(node, "attr", "")) for node in parts} - found - set(NETWORK)
        found |= names
        waiting += [body for name in names for body in bodies.get(name, [])]
    return found


@functools.lru_cache(maxsize=64)
def formatted(source: str, is_ours: bool = True) -> str:
    """Return a file with sorted imports, formatted by ruff. Raises ExportError if it cannot be read.

    Args:
        source: The file.
        is_ours: Whether all of it is this package's, so that imports that it does not use can be left out.
    """
    options = ["--isolated", "--line-length", str(LINE_LENGTH), "--target-version", "py311", "-"]
    rules = ["--extend-select", "I"] if is_ours else ["--select", "I"]
    fixed = _ruff(source, ["check", "--quiet", "--fix", "--exit-zero", *rules, *options])
    return _ruff(fixed, ["format", "--quiet", *options])


def _ruff(source: str, arguments: list[str]) -> str:
    command = [sys.executable, "-m", "ruff", *arguments]
    done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise ExportError(f"the source of the network cannot be formatted: {done.stderr.strip()}")
    return done.stdout
