"""Cost counter: MACs, memory access and activations of a forward pass, per operator. Works on the meta device."""

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
    """One convolution of a layer.

    Attributes:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        kernel: Height and width of the kernel.
        groups: Number of groups.
        macs: Multiply-accumulates.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    macs: int

    @property
    def is_depthwise(self) -> bool:
        """Whether each input channel is its own group."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel is 1x1."""
        return self.kernel == (1, 1)


class CostCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager that counts the costs of the operators that run inside.

    All counts include the batch dimension. Batch norm and activations count as fused, that is, as free.

    Attributes:
        macs: Multiply-accumulates of convolutions and linear layers.
        activations: Output elements of convolutions and linear layers, as in pycls (Radosavovic et al. 2020,
            section 3.2).
        memory_access: Elements that operators read and write, including weights.
        element_wise_access: The part of `memory_access` of operators without weights: additions, gates, pooling,
            concatenation and shuffles.
        peak_activation: Most feature-map elements that a single operator reads and writes, without weights.
            Maps that are kept for a later operator, as for a skip connection, do not count.
        convolutions: The convolutions, in the order of execution.
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
            self._count_weighted(name, args, out, macs)
        else:
            self.element_wise_access += moved
            self._update_peak(_maps((args, out)))
        return out

    def _count_weighted(self, name: str, args: Any, out: Tensor, macs: int) -> None:
        """Count an operator with weights: a convolution or a matrix product."""
        self.macs += macs
        self.activations += out.numel()
        self._update_peak([args[_INPUT.get(name, 0)], out])
        if name == "convolution":
            x, weight, groups = args[0], args[1], args[8]
            kernel = (weight.shape[2], weight.shape[3])
            self.convolutions.append(Convolution(x.shape[1], weight.shape[0], kernel, groups, macs))

    def _update_peak(self, maps: list[Tensor]) -> None:
        self.peak_activation = max(self.peak_activation, sum(tensor.numel() for tensor in maps))


_BATCH_NORM = "native_batch_norm"
_ACTIVATIONS = ("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid")
_FUSED = frozenset([_BATCH_NORM, *_ACTIVATIONS, "dropout", "native_dropout"])
_FREE = frozenset(["detach", "empty", "alias"])
_INPUT = {"addmm": 1}
"""Position of an operator's feature map among its arguments, if not the first."""


def _shape_only(name: str, x: Tensor) -> Any:
    """Return the output of a fused operator on the meta device. Torch itself takes 3 ms for a batch norm."""
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

    Other tensors have other numbers of dimensions: an index has 1, the masked weights of a learned group
    convolution have 3.
    """
    return [tensor for tensor in _tensors(tree) if tensor.dim() in (2, 4, 5)]
