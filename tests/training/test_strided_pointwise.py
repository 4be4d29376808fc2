"""Strided 1x1 convolutions of few channels: the same outputs and gradients, without torch's faulty kernel."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from nas.training.strided_pointwise import safe_pointwise


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("size", [8, 17])
def test_outputs_and_gradients_stay(channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 5, 1, 2), nn.Conv2d(5, 4, 3, 2)).double()
    x = torch.randn(2, channels, size, size).double()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        return [y.detach(), *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)]

    expected = gradients()
    with safe_pointwise(model):
        assert model[0].stride == (1, 1)
        assert model[1].stride == (2, 2)
        found = gradients()
        again = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert all(torch.equal(each(x), found[0]) for each in again)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)
    assert model[0].stride == (2, 2)
    assert not model[0]._forward_pre_hooks
    assert torch.equal(model(x), expected[0])


def test_others_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, 2, groups=8),
                          nn.Conv2d(3, 8, 3, 2), nn.Conv2d(3, 8, 1, 2, padding=1))  # fmt: skip
    with safe_pointwise(model):
        assert [layer.stride for layer in model] == [(2, 2), (1, 1), (2, 2), (2, 2), (2, 2)]


CODE = """
import torch
from nas.training.strided_pointwise import safe_pointwise
conv = torch.nn.Conv2d(3, 16, 1, 2, bias=False).to(memory_format=torch.channels_last)
x = torch.randn(32, 3, 16, 16).to(memory_format=torch.channels_last)
with safe_pointwise(conv):
    for _ in range(20):
        conv(x).square().sum().backward()
"""


def test_gradients_of_channels_last_images_leave_the_memory_alone() -> None:
    """In a process of its own: the faulty kernel ends it."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
