"""What one forward run costs, counted operator by operator on any device, the meta device included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Convolution:
    """One convolution of a layer: its channels, kernel (height, width), groups and multiply-accumulates."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    macs: int

    @property
    def is_depthwise(self) -> bool:
        """Whether each input channel has a group of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel is 1x1."""
        return self.kernel == (1, 1)


class CostCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs inside, in elements at the batch that runs; batch norm and activations count as fused.

    `macs`: multiply-accumulates of convolutions and linear layers. `activations`: their output elements, as
    pycls counts them (Radosavovic et al. 2020, section 3.2). `memory_access`: elements that operators read and
    write, weights included; `element_wise_access` is the part of those that multiply no weights: additions,
    gates, pooling, concatenation, shuffles. `peak_activation`: elements of the feature maps, without weights,
    that the most demanding single operator reads and writes; a map that waits for a later operator, as a skip
    around a convolution does, is not in it. `convolutions`: one record each, in the order of execution.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.activations = 0
        self.memory_access = 0
        self.element_wise_access = 0
        self.peak_activation = 0
        self.convolutions: list[Convolution] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        name = packet.__name__
        if name.rstrip("_") in _FUSED:
            return _shape_only(name, args[0]) if args[0].is_meta else func(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if func.is_view or name in _FREE:
            return out
        moved = sum(tensor.numel() for tensor in _tensors((args, out)))
        self.memory_access += moved
        if packet in flop_registry:
            macs = flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
            self._multiplied(name, args, out, macs)
        else:
            self.element_wise_access += moved
            self._reached(_maps((args, out)))
        return out

    def _multiplied(self, name: str, args: Any, out: Tensor, macs: int) -> None:
        """Record an operator with weights: a convolution or a matrix product."""
        self.macs += macs
        self.activations += out.numel()
        self._reached([args[_INPUT.get(name, 0)], out])
        if name == "convolution":
            x, weight, groups = args[0], args[1], args[8]
            kernel = (weight.shape[2], weight.shape[3])
            self.convolutions.append(Convolution(x.shape[1], weight.shape[0], kernel, groups, macs))

    def _reached(self, maps: list[Tensor]) -> None:
        self.peak_activation = max(self.peak_activation, sum(tensor.numel() for tensor in maps))


_BATCH_NORM = "native_batch_norm"
_FUSED = frozenset(
    [_BATCH_NORM, "relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "dropout", "native_dropout"]
)
_FREE = frozenset(["detach", "empty", "alias"])
_INPUT = {"addmm": 1}
"""Where an operator's feature map stands among its arguments, if not first."""


def _shape_only(name: str, x: Tensor) -> Any:
    """What a fused operator gives on the meta device, without torch's own slow way (3 ms for a batch norm)."""
    if name == _BATCH_NORM:
        return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    return x if name.endswith("_") else torch.empty_like(x)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _tensors(branch)


def _maps(tree: Any) -> list[Tensor]:
    """Return the feature maps: (B, C, H, W), (B, C), or (B, G, C / G, H, W) in a shuffle.

    An index has one dimension, the weights that a learned group convolution masks have three.
    """
    return [tensor for tensor in _tensors(tree) if tensor.dim() in (2, 4, 5)]
