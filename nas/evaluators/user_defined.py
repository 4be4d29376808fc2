"""Evaluators that a user brings: `package.module:function`, or what an installed package registers by name."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import json
import math
import numbers
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.evaluators.base import EvaluatorContext
from nas.training.loop import TrainingError
from nas.utils.registry import nearest

FLAG = "--evaluator"
OPTIONAL = ("deterministic", "longer", "trained")
"""What an evaluator may have beside the protocol, once it is made; `epochs` is asked of the class."""


class OwnEvaluator:
    """A function `f(arch, seed)` that returns an accuracy or yields several, or an evaluator class made of a Setup.

    Whatever it does wrong is a TrainingError, with its kind, message and place: the trial fails, the search goes on.
    """

    def __init__(self, name: str, thing: Callable[..., Any], setup: EvaluatorContext):
        self._name, self._thing = name, thing
        self._made: Any = None
        if inspect.isclass(thing):
            kind: Any = thing
            try:
                self._made = kind(setup)
            except NasError:
                raise
            except Exception as error:
                raise UsageError(f"{FLAG}: {name} cannot be made: {told(error, thing)}") from error

    def __getattr__(self, name: str) -> Any:
        """Return an optional member of what the user wrote, where it has one; what it does is checked."""
        made = self.__dict__.get("_made")
        if name not in OPTIONAL:
            raise AttributeError(name)
        member = getattr(self.__dict__.get("_thing") if made is None else made, name)
        if name == "deterministic":
            return bool(member)
        return self._longer if name == "longer" else self._trained

    def _longer(self, times: int) -> OwnEvaluator:
        result = copy.copy(self)
        result._made = self._called("longer", times)
        return result

    def _trained(self, arch: Architecture) -> nn.Module:
        model = self._called("trained", arch)
        if not isinstance(model, nn.Module):
            raise UsageError(f"{FLAG}: {self._name}: trained() must return a torch module: {type(model).__name__}")
        return model

    def _called(self, member: str, argument: Any) -> Any:
        target = self._thing if self._made is None else self._made
        try:
            return getattr(target, member)(argument)
        except NasError:
            raise
        except Exception as error:
            raise UsageError(f"{FLAG}: {self._name}: {member}(): {told(error, self._thing)}") from error

    @property
    def settings(self) -> dict[str, Any]:
        """Return the name, the source file, and what the class itself says decides its accuracies."""
        own = getattr(self._made, "settings", {})
        plain: Any = json.loads(json.dumps(own, default=repr))
        return {**(plain if isinstance(plain, dict) else {}), "evaluator": self._name, "file": _file(self._thing)}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield what it gives, each checked to lie in [0, 1]. Raises TrainingError."""
        try:
            for value in self._given(arch, seed):
                yield accuracy_of(value)
        except TrainingError as error:
            raise TrainingError(f"{self._name}: {error}") from error
        except (Exception, SystemExit) as error:
            raise TrainingError(f"{self._name}: {told(error, self._thing)}") from error

    def _given(self, arch: Architecture, seed: int) -> Iterator[Any]:
        function = self._thing if self._made is None else self._made.evaluate
        given: Any = function(arch, seed)
        if isinstance(given, Iterable) and not isinstance(given, str | bytes) and getattr(given, "ndim", None) != 0:
            empty = True
            for value in given:
                empty = False
                yield value
            if empty:
                raise TrainingError("it gave no accuracy")
        else:
            yield given


def told(error: BaseException, thing: Any) -> str:
    """Return kind, message and place of an exception in one line; the place in the file of `thing`, if it is there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == _file(thing)]
    frame = (own or list(frames))[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({frame.filename}:{frame.lineno})"


def own_epochs(name: str, thing: Callable[..., Any], setup: EvaluatorContext) -> int | None:
    """Return what `epochs(setup)` of a user's evaluator says, None where it has none.

    Raises UsageError where it raises, or says what is no number of epochs.
    """
    member = getattr(thing, "epochs", None)
    if member is None:
        return None
    try:
        epochs = member(setup)
    except NasError:
        raise
    except Exception as error:
        raise UsageError(f"{FLAG}: {name}: epochs(): {told(error, thing)}") from error
    if epochs is None or (type(epochs) is int and epochs > 0):
        return epochs
    raise UsageError(f"{FLAG}: {name}: epochs() must be a whole number above 0: {epochs!r}")


def accuracy_of(value: Any) -> float:
    """Return a number, also of numpy or of torch, as an accuracy. Raises TrainingError where it is none in [0, 1]."""
    item: Any = value.item() if hasattr(value, "item") and getattr(value, "size", None) is not None else value
    number = float(item) if isinstance(item, numbers.Real) and item is not True and item is not False else math.nan
    if not 0 <= number <= 1:
        raise TrainingError(f"an accuracy must lie in [0, 1]: {value!r}")
    return number


def load_own(name: str) -> Callable[..., Any]:
    """Return what `package.module:function` names, of the current directory or installed.

    Raises UsageError where it cannot be imported or called, with the nearest name or the place of the error.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{FLAG}: write package.module:function, not '{name}'")
    module = _imported(module_name, name)
    thing = getattr(module, attribute, None)
    if not callable(thing):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = "has no function" if thing is None else f"has {type(thing).__name__}, not a function:"
        raise UsageError(f"{FLAG}: {module_name} {what} '{attribute}'{nearest(attribute, known)}")
    return thing  # type: ignore[no-any-return]


def _imported(module_name: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # an installed `nas` does not look into the current directory
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"{FLAG}: no module '{error.name}'{_nearest_module(error.name)}") from None
        raise UsageError(f"{FLAG}: {name}: it imports '{error.name}', which is not installed") from error
    except (Exception, SystemExit) as error:
        place = _place(error)
        raise UsageError(f"{FLAG}: {name}: {type(error).__name__}: {' '.join(str(error).split())}{place}") from error


def _nearest_module(name: str) -> str:
    """Return the nearest module beside where `name` was looked for; "" where none is close."""
    parent, _, last = name.rpartition(".")
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return f": '{parent}' is a module, not a package"
    paths = list(sys.modules[parent].__path__) if parent else [str(Path.cwd())]
    close = nearest(last, [module.name for module in pkgutil.iter_modules(paths)])
    return close if "mean" in close else f", neither in {paths[0]} nor installed"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return ""  # its message has the file and the line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _file(thing: Any) -> str:
    try:
        return inspect.getsourcefile(thing) or ""
    except TypeError:
        return ""
