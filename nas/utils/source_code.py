"""The source code of plug-ins: digests of a module and of the modules that it imports.

The code is read, never executed. Imports are followed in the source text, so the digests do not depend on what the
process has imported before. A name that is computed, as in `importlib.import_module(name)`, is not followed.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nas.utils.imports import find_spec

PACKAGE = __name__.partition(".")[0]


def source_digests(*modules: str) -> dict[str, str]:
    """Return sixteen hex digits of the SHA-256 of each source file that the modules consist of.

    These are the files of the modules themselves, and of everything that they import directly or indirectly, without
    the standard library, this package, and packages in site-packages. A package in site-packages counts only if one
    of `modules` belongs to it.

    Args:
        modules: The dotted names of importable modules, such as "mine" or "package.evaluators".

    Returns:
        The digests by path, relative to the folder from which the module is imported: "package/evaluators.py".
    """
    own = {module.partition(".")[0] for module in modules}
    files: dict[str, Path] = {}
    pending, seen = list(modules), set()
    while pending:
        module = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        for name, file in _files_of(module, own):
            if name not in files:
                files[name] = file
                pending += _imports(file, name)
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest()[:16] for name in sorted(files)}


def _files_of(module: str, own: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the relative path and the file of a module and of the packages that contain it."""
    top, *rest = module.split(".")
    location = _location(top)
    if location is None or top in sys.stdlib_module_names or (top == PACKAGE):
        return
    if _is_installed(location) and top not in own:
        return
    if location.is_file():
        yield location.name, location
        return
    for count in range(len(rest) + 1):
        folder, name = location.joinpath(*rest[:count]), "/".join([top, *rest[:count]])
        for file, ending in ((folder / "__init__.py", "/__init__.py"), (folder.with_name(f"{folder.name}.py"), ".py")):
            if file.is_file() and (count or ending != ".py"):
                yield name + ending, file
                break


def _location(top: str) -> Path | None:
    """Return the file or the folder of a top-level module; None if it is not found or has no file."""
    spec = find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def _is_installed(location: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(location.parts):
        return True
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return any(folder in location.parents for folder in folders)


def _imports(file: Path, name: str) -> Iterator[str]:
    """Yield the dotted names that a source file may import. A name after `from` may be a module or not."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = name.removesuffix(".py").removesuffix("/__init__").split("/")
    if not name.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module:
                yield module
            yield from (f"{module}.{alias.name}" if module else alias.name for alias in node.names)
