"""Helpers shared by the runtimes: version checks, quiet conversion, lazily copied outputs."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from nas.errors import DeviceError, ExportError, NasError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

LONGEST_REASON = 300
Inference = Callable[..., Sequence[Any]]
"""Runs one inference: `run()`, or `run(arrays)` with other inputs, which it reads from then on."""


class DeviceArray:
    """An output in the runtime's memory. `numpy.asarray` copies it, after the clock has stopped.

    `owner` keeps alive the memory that `fetch` returns.
    """

    def __init__(self, fetch: Callable[[], Any], owner: Any = None):
        self._fetch, self._owner = fetch, owner

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return a copy of the values as a numpy array."""
        array = self._fetch()
        return array.astype(array.dtype if dtype is None else dtype, copy=True)


def installed(runtime: str, module: str, package: str) -> str:
    """Return the version of the library `module`, installed by `pip install package`. Raises DeviceError."""
    try:
        library = importlib.import_module(module)
        return str(getattr(library, "__version__", None) or importlib.metadata.version(package))
    except ImportError as error:  # PackageNotFoundError is one
        raise DeviceError(f"runtime '{runtime}' is not installed: pip install {package} ({error})") from error


@contextlib.contextmanager
def converting(runtime: str) -> Iterator[None]:
    """Hide what a converter prints; if it fails, raise ExportError with one line.

    Converters contain native code, so the file descriptors themselves are redirected. Garbage collection is off: a
    conversion creates a million short-lived objects next to the millions that the libraries keep.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
            try:
                with _redirected_to(noise), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield
            except NasError:
                raise
            except Exception as error:
                noise.seek(0)
                reason = _first_line(str(error)) or _first_line(noise.read(), last=True) or type(error).__name__
                raise ExportError(f"runtime '{runtime}' cannot convert this network: {reason}") from error
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide what a library prints while it loads a model."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as noise, _redirected_to(noise):
        yield


@contextlib.contextmanager
def _redirected_to(file: TextIO) -> Iterator[None]:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
        file.flush()
    finally:
        for descriptor, copy in zip((1, 2), kept):
            os.dup2(copy, descriptor)
            os.close(copy)


def _first_line(text: str, *, last: bool = False) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return lines[-1 if last else 0][:LONGEST_REASON]


def exported_program(model: nn.Module, inputs: Sequence[Tensor]) -> ExportedProgram:
    """Return the torch.export program of `model` for inputs of these shapes."""
    import torch

    with torch.no_grad():
        return torch.export.export(model, tuple(inputs), strict=False)


def output_count(model: nn.Module) -> int:
    """Return the number of a model's outputs. A model with several says so in its attribute `outputs`."""
    return int(getattr(model, "outputs", 1))


def tensors_of(output: Any) -> list[Any]:
    """Return the outputs of a torch model, one tensor or several, as a list."""
    return list(output) if isinstance(output, list | tuple) else [output]


@contextlib.contextmanager
def quick_decompositions() -> Iterator[None]:
    """Halve the time of `ExportedProgram.run_decompositions`, which converters call three times per model.

    Each call searches all operators of all namespaces for composite ones; only those of aten are cached. Our
    blocks consist of aten operators, so the search of the other namespaces is skipped.
    """
    from unittest.mock import patch

    from torch._export import utils

    if not hasattr(utils, "_collect_all_valid_cia_ops_for_aten_namespace"):  # another torch: slower, but correct
        yield
        return
    utils._collect_all_valid_cia_ops_for_aten_namespace()
    with patch.object(utils, "_collect_all_valid_cia_ops_for_namespace", lambda _: set()):
        yield
