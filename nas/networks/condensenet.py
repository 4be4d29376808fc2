"""CondenseNet over whole networks: a training's progress and penalty, and what it ends in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.architecture import Architecture, BlockSpec
from nas.networks.blocks.condense import LearnedGroupConv
from nas.networks.blocks.norm_classifier import NormClassifier


def learned_groups(model: nn.Module) -> Iterator[LearnedGroupConv]:
    """Yield the learned group convolutions of a model in order."""
    return (module for module in model.modules() if isinstance(module, LearnedGroupConv))


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every learned group convolution of `model` which part of the training, in [0, 1], is over."""
    for layer in learned_groups(model):
        layer.set_progress(progress)


def group_lasso(model: nn.Module) -> Tensor:
    """Return the penalty that makes the outputs of a group read the same inputs (CondenseNet, section 3.1).

    The authors add 1e-5 of it to the loss on ImageNet, none of it on CIFAR.
    """
    return sum((layer.lasso() for layer in learned_groups(model)), start=torch.zeros(()))


def condensed(arch: Architecture) -> Architecture:
    """Return what `arch` is once it is trained: each `condense` block is a `condensed` one."""
    stages = tuple(tuple(_condensed(spec) for spec in stage) for stage in arch.stages)
    return replace(arch, stages=stages)


def _condensed(spec: BlockSpec) -> BlockSpec:
    return BlockSpec("condensed", spec.args) if spec.op == "condense" else spec


@torch.no_grad()
def prune_classifier(head: NormClassifier, keep: float = 0.5) -> NormClassifier:
    """Return the head that reads only the part `keep` of the features: those with the largest weights.

    Unlike the condensed layers it gives other outputs than the one that it comes from.
    """
    if head.index is not None:
        raise ValueError(f"the classifier is pruned already: it reads {len(head.index)} of its features")
    weight, bias = head.linear.weight, head.linear.bias
    pruned = NormClassifier(
        (weight.shape[1],),
        num_classes=len(weight),
        dropout=head.dropout.p,
        bias=bias is not None,
        keep=keep,
    )
    pruned.norm.load_state_dict(head.norm.state_dict())
    if pruned.index is not None:
        pruned.index.copy_(weight.abs().sum(0).topk(len(pruned.index)).indices.sort().values)
        weight = weight[:, pruned.index]
    pruned.linear.weight.copy_(weight)
    if bias is not None:
        pruned.linear.bias.copy_(bias)
    return pruned.train(head.training).to(weight.device)
