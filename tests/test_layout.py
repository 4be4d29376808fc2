"""The layout: which packages there are, who may import whom, how long things are, and what is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.import_graph import PACKAGE, layers, package_imports
from tests.helpers.paths import ROOT

FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
MOST_LINES, MOST_FUNCTION_LINES, MOST_FILES = 400, 60, 18
PLUGIN_PACKAGES = {"networks/blocks"}
"""Packages of which every file is one entry of a registry: they may grow."""
ON_DEVICE = {
    "nas", "nas.errors", "nas.utils", "nas.utils.registry", "nas.devices", "nas.devices.energy_and_memory",
    "nas.devices.example_inputs", "nas.devices.processor", "nas.devices.timing", "nas.devices.worker",
    "nas.devices.runtimes",
}  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_import_linter_keeps_the_contracts() -> None:
    done = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", layers())
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    order = layers()
    below = set(order[order.index(package) + 1 :])
    assert package_imports()[package] <= below


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_a_package_says_in_one_sentence_what_it_is_for(package: Path) -> None:
    doc = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert doc
    assert doc.splitlines()[0].endswith(".")


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_a_package_has_few_files_and_is_not_deep(package: Path) -> None:
    assert len(package.relative_to(PACKAGE).parts) <= 2
    if name(package) not in PLUGIN_PACKAGES:
        modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_FILES


def test_the_top_has_few_entries() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 5
    assert len([path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]) <= 14


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES, node.name


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, nas.cli.main as m; m.make_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "optuna", "rich", "yaml", "sklearn"} & set(done.stdout.split())


def test_the_worker_imports_only_what_a_device_has() -> None:
    code = "import sys; sys.modules['torch'] = None; import nas.devices.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"numpy", "onnxruntime", "yaml", "optuna"} & loaded
    ours = {module for module in loaded if module.split(".")[0] == "nas"}
    assert {module for module in ours if not module.startswith("nas.devices.runtimes.")} == ON_DEVICE
