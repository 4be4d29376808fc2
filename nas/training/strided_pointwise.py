"""A way around a kernel of torch that corrupts the memory: gradients of strided 1x1 convolutions of few channels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

SAFE_CHANNELS = 8
"""From this number of input channels on, the kernel is right."""


@contextlib.contextmanager
def safe_pointwise(model: nn.Module) -> Iterator[None]:
    """Let strided 1x1 convolutions of fewer than 8 channels read every n-th pixel themselves, while the context lasts.

    The outputs are the same. In torch 2.14 on CPUs, the gradients of such a convolution, of input in channels-last
    order, are written outside of their memory: the process dies with "corrupted size vs. prev_size", or later, or
    computes with wrong numbers. A 1x1 branch beside the first convolution of a network is one.

    Args:
        model: The network; its convolutions are changed in place, and back at the end.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_faulty(module)]
    strides = [conv.stride for conv in found]
    handles = [conv.register_forward_pre_hook(_Every(*conv.stride)) for conv in found]
    for conv in found:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for conv, stride, handle in zip(found, strides, handles, strict=True):
            conv.stride = stride
            handle.remove()


def _is_faulty(conv: nn.Conv2d) -> bool:
    is_plain = conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return conv.kernel_size == (1, 1) and conv.stride != (1, 1) and is_plain and conv.in_channels < SAFE_CHANNELS


class _Every:
    """A hook, which can be copied and pickled, that keeps every n-th row and column of a convolution's input."""

    def __init__(self, rows: int, columns: int):
        self._rows, self._columns = rows, columns

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][..., :: self._rows, :: self._columns],)
