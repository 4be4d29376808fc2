"""User-defined evaluators: `package.module:function`, or the name that an installed package registers."""

from __future__ import annotations

import copy
import inspect
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.returned_values import accuracies_of
from nas.training.loop import TrainingError
from nas.utils.imports import import_callable

FLAG = "evaluator"
"""The setting that names the evaluator."""
OPTIONAL = ("deterministic", "longer", "trained")
"""The optional members of an evaluator. `epochs` is read from the class instead."""


class UserEvaluator:
    """An evaluator made from a user's function or class.

    Exceptions and invalid accuracies become TrainingErrors with type, message and place. The trial fails and the
    search continues.

    Args:
        name: The name that the user gave.
        function: A function `f(arch, seed)` that returns one accuracy or yields several, or a class that is created
            with an EvaluatorContext and implements `nas.evaluators.base.Evaluator`.
        context: Passed to a class.
        source_files: The digests of the source files, by file, for `settings`.

    Raises:
        UsageError: The class cannot be instantiated or has no `evaluate`, or the function does not take two arguments.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        context: EvaluatorContext,
        source_files: Mapping[str, str] | None = None,
    ):
        self._name, self._function, self._source_files = name, function, dict(source_files or {})
        self._instance: Any = None
        if inspect.isclass(function):
            evaluator_class: Any = function
            try:
                self._instance = evaluator_class(context)
            except NasError:
                raise
            except Exception as error:
                rule = f"cannot be instantiated ({describe_exception(error, function)})"
                raise UsageError(rule, key=FLAG, value=name) from error
            if not callable(getattr(self._instance, "evaluate", None)):
                raise UsageError("has no method evaluate(arch, seed)", key=FLAG, value=name)
        _check_parameters(name, function if self._instance is None else self._instance.evaluate)

    def __getattr__(self, name: str) -> Any:
        """Return an optional member, if the user's function or class has it. Its results are checked."""
        instance = self.__dict__.get("_instance")
        if name not in OPTIONAL:
            raise AttributeError(name)
        member = getattr(self.__dict__.get("_function") if instance is None else instance, name)
        if name == "deterministic":
            return bool(member)
        return self._longer if name == "longer" else self._trained

    def _longer(self, times: int) -> UserEvaluator:
        result = copy.copy(self)
        result._instance = self._call("longer", times)
        return result

    def _trained(self, arch: Architecture) -> nn.Module:
        model = self._call("trained", arch)
        if not isinstance(model, nn.Module):
            rule = f"trained() must return a torch module, not {type(model).__name__}"
            raise UsageError(rule, key=FLAG, value=self._name)
        return model

    def _call(self, member: str, argument: Any) -> Any:
        target = self._function if self._instance is None else self._instance
        try:
            return getattr(target, member)(argument)
        except NasError:
            raise
        except Exception as error:
            rule = f"{member}() failed ({describe_exception(error, self._function)})"
            raise UsageError(rule, key=FLAG, value=self._name) from error

    @property
    def settings(self) -> dict[str, Any]:
        """Return the name, the source file, the digests of the source files, and the `settings` of the user's class."""
        declared = getattr(self._instance, "settings", {})
        plain: Any = json.loads(json.dumps(declared, default=repr))
        file = _source_file(self._function)
        own = {"evaluator": self._name, "file": file, "source_files": self._source_files}
        return {**(plain if isinstance(plain, dict) else {}), **own}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the accuracies, see `nas.evaluators.returned_values`. Raises TrainingError."""
        try:
            function = self._function if self._instance is None else self._instance.evaluate
            yield from accuracies_of(function(arch, seed))
        except TrainingError as error:
            raise TrainingError(f"{self._name}: {error}") from error
        except (Exception, SystemExit) as error:
            raise TrainingError(f"{self._name}: {describe_exception(error, self._function)}") from error


def _check_parameters(name: str, function: Callable[..., Any]) -> None:
    """Raise UsageError if `function` cannot be called as f(arch, seed)."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    try:
        signature.bind("arch", 0)
    except TypeError as error:
        rule = f"must take two arguments, (arch, seed), not {signature} ({error})"
        raise UsageError(rule, key=FLAG, value=name) from error


def describe_exception(error: BaseException, function: Any) -> str:
    """Return type, message and place of an exception in one line.

    The place is the innermost line in the source file of `function`, or the innermost line at all.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == _source_file(function)]
    frame = (own or list(frames))[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({frame.filename}:{frame.lineno})"


def user_epochs(name: str, function: Callable[..., Any], context: EvaluatorContext) -> int | None:
    """Return `epochs(context)` of a user's evaluator, or None if it has no `epochs`.

    Raises:
        UsageError: `epochs` fails, or returns neither None nor a positive integer.
    """
    member = getattr(function, "epochs", None)
    if member is None:
        return None
    try:
        epochs = member(context)
    except NasError:
        raise
    except Exception as error:
        rule = f"epochs() failed ({describe_exception(error, function)})"
        raise UsageError(rule, key=FLAG, value=name) from error
    if epochs is None or (type(epochs) is int and epochs > 0):
        return epochs
    raise UsageError(f"epochs() must return a positive integer or None, not {epochs!r}", key=FLAG, value=name)


def load_callable(name: str) -> Callable[..., Any]:
    """Import a function or class.

    Args:
        name: `package.module:function`. The module is installed or in the current directory.

    Raises:
        UsageError: The module cannot be imported, or has no such callable.
    """
    return import_callable(name, lambda rule, value, close: UsageError(rule, key=FLAG, value=value, nearest=close))


def _source_file(function: Any) -> str:
    try:
        return inspect.getsourcefile(function) or ""
    except TypeError:
        return ""
