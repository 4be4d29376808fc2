"""The house: who may import whom, how long a file may be, and that nothing heavy is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "nas").rglob("*.py"))
ROOMS = {
    "errors": set(),
    "registry": {"errors"},
    "units": {"errors"},
    "resources": set(),
    "progress": set(),
    "files": {"errors"},
    "architecture": {"errors"},
    "blocks": set(),
    "schema": {"architecture", "blocks", "errors", "registry"},
    "costs": set(),
    "network": {"architecture", "blocks", "costs", "errors", "registry", "schema"},
    "guidelines": {"network"},
    "picture_network": {"architecture", "blocks", "network"},
    "condensing": {"architecture", "blocks"},
    "weights": {"architecture", "errors", "network", "registry", "space_file"},
    "space": {"architecture", "errors", "schema"},
    "space_file": {"architecture", "blocks", "errors", "registry", "resources", "schema", "space"},
    "lattice": {"architecture", "errors", "network", "space"},
    "compiled": {"architecture", "errors", "lattice", "network", "space"},
    "distribution": {"compiled", "errors", "units"},
    "draws": {"architecture", "network", "space"},
    "picture_latency": {"distribution", "errors", "units"},
    "profiling": set(),
    "estimate": set(),
    "runtimes": {"errors"},
    "calibration": {"errors"},
    "table_rows": {"architecture", "errors", "network"},
    "latency": {"architecture", "calibration", "files", "errors", "estimate", "network", "profiling", "table_rows"},
    "witnesses": {"architecture", "calibration", "compiled", "distribution", "draws", "errors", "latency", "network",
                  "space", "table_rows"},
    "profiler": {"architecture", "condensing", "device", "errors", "latency", "lattice", "network", "processor",
                 "profiling",
                 "progress", "resources", "runtimes", "space", "table_rows", "witnesses"},
    "verify": {"calibration", "device", "draws", "errors", "latency", "lattice", "profiler", "profiling", "progress",
               "space", "witnesses"},
    "published": {"architecture", "errors", "latency", "lattice", "network", "registry", "schema", "space",
                  "space_file"},
    "tables": {"errors", "latency", "registry", "resources"},
    "processor": set(),
    "meters": {"registry", "runtimes", "worker"},
    "worker": {"errors", "meters", "processor", "profiling", "registry", "runtimes"},
    "board": set(),
    "link": {"errors"},
    "remote": {"errors", "link"},
    "device": {"errors", "link", "profiling", "registry", "remote", "runtimes"},
    "bundle": {"board", "device", "errors", "files", "latency", "network", "profiler", "profiling", "progress",
               "remote", "space"},
    "fronts": set(),
    "objective": {"errors", "registry"},
    "goals": {"errors", "objective", "registry"},
    "ranking": {"fronts", "objective"},
    "forecast": {"architecture", "compiled", "errors", "latency", "lattice", "network", "ranking", "space"},
    "tasks": {"errors", "registry", "resources"},
    "recipe": {"errors", "registry"},
    "checkpoint": {"errors", "files"},
    "training_state": {"checkpoint", "errors", "recipe"},
    "training": {"checkpoint", "condensing", "errors", "network", "recipe", "tasks", "training_state"},
    "picture_training": {"files", "training_state"},
    "train_job": {"architecture", "device", "errors", "export", "files", "network", "picture_training", "progress",
                  "recipe", "space_file", "tasks", "training", "training_state", "weights"},
    "supernet": {"architecture", "errors", "files", "lattice", "network", "space"},
    "supernet_training": {"architecture", "checkpoint", "errors", "lattice", "network", "recipe", "space",
                          "supernet", "tasks", "training"},
    "agreement": set(),
    "trust": {"agreement", "files", "resources"},
    "picture_agreement": {"files"},
    "proxy_check": {"agreement", "architecture", "errors", "evaluators", "executors", "export", "files",
                    "picture_agreement", "progress", "reference", "space", "space_file", "tasks", "training", "trust",
                    "zero_cost"},
    "reference": {"architecture", "draws", "errors", "evaluators", "files", "network", "space", "tasks", "training"},
    "zero_cost": {"architecture", "network", "registry", "space", "tasks", "training"},
    "evaluators": {"architecture", "draws", "errors", "files", "network", "progress", "registry", "space", "study",
                   "supernet", "supernet_training", "tasks", "training", "zero_cost"},
    "domain": {"architecture"},
    "space_domain": {"compiled", "domain", "lattice", "space"},
    "problem": {"domain", "objective"},
    "gaussian_process": {"domain"},
    "controllers": {"architecture", "domain", "errors", "gaussian_process", "objective", "problem"},
    "warm_start": {"architecture", "controllers", "domain", "draws", "problem", "progress", "space", "tasks",
                   "training", "zero_cost"},
    "start_from": {"architecture", "errors", "lattice", "network", "objective", "problem", "progress", "ranking",
                   "space", "space_file", "trial_store"},
    "rungs": {"errors", "objective", "ranking"},
    "shrinkage": set(),
    "claims": set(),
    "workers": {"files", "storage"},
    "storage": {"errors", "files"},
    "trial_store": {"architecture", "claims", "errors", "files", "storage"},
    "trials": {"architecture", "errors", "network", "objective", "space"},
    "study": {"architecture", "claims", "files", "errors", "objective", "shrinkage", "space", "storage", "trial_store",
              "trials", "workers"},
    "executors": {"architecture", "errors", "evaluators", "training", "units"},
    "live": {"fronts", "objective", "progress", "ranking", "study", "units"},
    "search": {"architecture", "claims", "controllers", "errors", "evaluators", "executors", "live", "network",
               "objective", "problem", "progress", "ranking", "rungs", "space", "study"},
    "repeats": {"evaluators", "executors", "objective", "progress", "shrinkage", "study"},
    "final": {"architecture", "evaluators", "network", "objective", "profiling", "progress", "space", "study", "tasks",
              "training"},
    "standalone": {"architecture", "blocks", "network", "registry", "schema"},
    "export": {"architecture", "files", "device", "errors", "network", "standalone", "study", "tasks", "units"},
    "scaling": {"architecture", "blocks", "device", "domain", "errors", "estimate", "executors", "files", "latency",
                "network", "objective", "profiler", "progress", "registry", "schema", "space", "table_rows", "units"},
    "picture_scaling": {"files"},
    "picture": {"final", "objective", "ranking", "study"},
}  # fmt: skip
TOP = {"experiment", "experiment_check", "ready", "result", "scale_flags", "scale_job", "scale_search", "scale_setting",
       "winners", "job", "cli"}  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(ROOT / "nas").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name and name.startswith("nas.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_below_it(path: Path) -> None:
    if room(path) in TOP | {"__init__"}:
        return
    assert imports(path) - {room(path)} <= ROOMS[room(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, nas.cli.main as m; m.make_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "optuna", "rich", "yaml", "sklearn"} & set(done.stdout.split())


def test_the_worker_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import nas.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnxruntime", "yaml", "optuna"} & set(done.stdout.split())
