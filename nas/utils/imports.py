"""Imports by name: `package.module:function` of an installed module or of one in the current directory."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import NasError
from nas.utils.registry import closest, nearest

Fail = Callable[[str, str, str], NasError]
"""Makes the error from the rule, the value, and the end of the message with the closest valid value."""


def import_callable(name: str, fail: Fail, form: str = "package.module:function") -> Callable[..., Any]:
    """Import a function or class.

    Args:
        name: `package.module:function`. The module is installed or in the current directory.
        fail: Makes the error to raise.
        form: What `name` must look like, for the message.

    Raises:
        NasError: The module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise fail(f"must be {form}", name, "")
    module = import_module(module_name, name, fail)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        kind = form.rpartition(":")[2].lower()
        problem = f"not a {kind} but {type(function).__name__}" if function is not None else f"no such {kind}"
        raise fail(f"{problem} in {module_name}", attribute, nearest(attribute, known))
    return function  # type: ignore[no-any-return]


def import_module(module_name: str, name: str, fail: Fail) -> ModuleType:
    """Import an installed module, or one in the current directory. Raises what `fail` makes; `name` is the value."""
    search_current_directory()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise _no_module(error.name, fail) from None
        raise fail(f"imports '{error.name}', which is not installed", name, "") from error
    except (Exception, SystemExit) as error:
        rule = f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}{_import_place(error)})"
        raise fail(rule, name, "") from error


def search_current_directory() -> None:
    """Let imports search the current directory, which the script of an installed `nas` does not."""
    current = str(Path.cwd())
    if current not in sys.path:
        sys.path.insert(0, current)


def find_spec(top: str) -> ModuleSpec | None:
    """Return the spec of a top-level module, without importing it; None if it is not found or has none."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # the main program has no spec
        return None


def find_file(top: str) -> Path | None:
    """Return the file of a top-level module, or the folder of a package, without importing it. None: not found."""
    search_current_directory()
    spec = find_spec(top)
    if spec is None:
        return None
    place = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or []), None)
    return Path(place) if place else None


def _no_module(name: str, fail: Fail) -> NasError:
    """Return the error for a module that was not found, with the closest name in the same folder."""
    parent, _, last = name.rpartition(".")
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return fail(f"no such module, because '{parent}' is not a package", name, "")
    paths = list(sys.modules[parent].__path__) if parent else [str(Path.cwd())]
    close = closest(last, [module.name for module in pkgutil.iter_modules(paths)])
    if close is None:
        return fail(f"no such module, neither in {paths[0]} nor installed", name, "")
    return fail("no such module", name, f"; did you mean '{close}'?")


def _import_place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return ""  # its message contains the file and the line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f", {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
