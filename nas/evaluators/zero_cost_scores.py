"""Zero-cost scores: predict the ranking of networks from untrained weights. Two network sizes serve as baselines.

Each score is a function of a Probe; higher is better. All scores use the initial weights of `build` for a seed, batch
statistics in batch norms (the running statistics of an untrained network are meaningless), and no dropout. "Weights"
means the weights of convolutions and linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.networks.network import Totals, build, totals, trace
from nas.networks.preprocessing import normalize
from nas.training.loop import TrainingError, pick_device
from nas.training.tasks.base import Task
from nas.utils.registry import lookup

BATCH = 64
"""Images of a batch."""
ZICO_BATCHES = 4
"""Into how many parts ZiCo splits the batch."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)


@dataclass(frozen=True)
class Batch:
    """A batch of training images.

    Attributes:
        images: (B, 3, R, R), uint8.
        items: The same images with their targets, as the data set holds them.
        task: The task, which defines the loss.
    """

    images: Tensor
    items: list[tuple[Tensor, Any]]
    task: Task

    def losses(self, network: nn.Module, parts: int = 1) -> Iterator[Tensor]:
        """Yield the mean loss of each of `parts` consecutive parts of the batch."""
        size = math.ceil(len(self.items) / parts)
        for first in range(0, len(self.items), size):
            batch = self.task.collate(self.items[first : first + size])
            images, targets = self.task.move(batch, self.images.device)
            yield self.task.loss(self.task.outputs(network, images), targets)


@dataclass(frozen=True)
class Probe:
    """The input of a score.

    Attributes:
        arch: The architecture.
        batch: The images.
        seed: The seed of the initial weights.
    """

    arch: Architecture
    batch: Batch
    seed: int

    @property
    def size(self) -> Totals:
        """The costs of the network at its deployed resolution."""
        return totals(trace(self.arch))

    def network(self) -> nn.Module:
        """Return the untrained network for the resolution of the batch, on the device of the batch."""
        torch.manual_seed(self.seed)
        network = build(self.arch.at(self.batch.images.shape[-2])).to(self.batch.images.device).eval()
        for module in network.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        return network


def draw_batch(task: Task, resolution: int, seed: int) -> Batch:
    """Draw BATCH training images (or all, if there are fewer) onto the training device.

    The same seed draws the same images with the same augmentation. torch's global random state is not changed.
    """
    train_set = task.train_set(resolution, max(BATCH, task.num_classes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        items = [train_set[int(index)] for index in torch.randperm(len(train_set))[:BATCH]]
    return Batch(task.move(task.collate(items), pick_device())[0], items, task)


def score(name: str, arch: Architecture, batch: Batch, seed: int) -> float:
    """Return a zero-cost score of a network. torch's global random state is not changed.

    Args:
        name: A key of ZERO_COST, or an installed plug-in.
        arch: The architecture.
        batch: The images.
        seed: The seed of the initial weights.

    Raises:
        UsageError: The name is unknown.
        TrainingError: The network has no finite score.
    """
    function = lookup(ZERO_COST, name, "zero-cost score")
    with torch.random.fork_rng(), torch.enable_grad():
        try:
            value = float(function(Probe(arch, batch, seed)))
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"{name}: {(str(error).splitlines() or ['?'])[0]}") from error
    if not math.isfinite(value):
        raise TrainingError(f"{name}: the score of {arch.digest} is {value}")
    return value


def _sum(outputs: Any) -> Any:
    """Return the sum of all outputs of a network, one tensor or several."""
    total: Any = sum(each.sum() for each in ([outputs] if isinstance(outputs, Tensor) else outputs))
    return total


def synflow(probe: Probe) -> float:
    """Logarithm of the synaptic flow of an all-ones image (Tanaka et al. 2020; Abdelfattah et al. 2021, section 3)."""
    images = probe.batch.images
    ones = torch.ones((1, *images.shape[1:]), dtype=torch.float64, device=images.device)
    return float(synaptic_flow(probe.network(), ones).log())


def naswot(probe: Probe) -> float:
    """Log-determinant of the number of activation codes that pairs of images share (Mellor et al. 2021, section 3)."""
    shared = shared_codes(probe.network(), normalize(probe.batch.images))
    return float(torch.linalg.slogdet(shared).logabsdet)


def zico(probe: Probe) -> float:
    """Log ratio of gradient means to their deviations between batches, summed over layers (Li et al. 2023, eq. 10)."""
    batch, network = probe.batch, probe.network()
    gradients = [_gradients(network, loss) for loss in batch.losses(network, ZICO_BATCHES)]
    return sum_of_log_ratios([torch.stack(layer) for layer in zip(*gradients, strict=True)])


def grad_norm(probe: Probe) -> float:
    """Euclidean norm of the loss's gradient in each layer, summed over layers (Abdelfattah et al. 2021, section 3)."""
    network = probe.network()
    (loss,) = probe.batch.losses(network)
    return sum(float(gradient.norm()) for gradient in _gradients(network, loss))


def jacob_cov(probe: Probe) -> float:
    """Lack of correlation between input gradients (Mellor et al. 2020; Abdelfattah et al. 2021, section 3)."""
    images = normalize(probe.batch.images).requires_grad_()
    (jacobian,) = torch.autograd.grad(_sum(probe.network()(images)), images)
    return independence(jacobian.flatten(1))


def params(probe: Probe) -> float:
    """Parameters: a baseline."""
    return float(probe.size.params)


def macs(probe: Probe) -> float:
    """Multiply-accumulates at the deployed resolution: a baseline."""
    return float(probe.size.macs)


ZERO_COST: dict[str, Callable[[Probe], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "zico": zico,
    "grad_norm": grad_norm,
    "jacob_cov": jacob_cov,
    "params": params,
    "macs": macs,
}
SIZES = ("params", "macs")
"""The scores that do not depend on weights, so not on the seed."""


def synaptic_flow(network: nn.Module, ones: Tensor) -> Tensor:
    """Return the sum over all weights w of |w dR/dw|, where R is the sum of the outputs with weights |w|.

    Batch norms and activations are replaced by the identity. The code of Abdelfattah et al. disables batch norms too.
    ReLU is the identity for inputs that are not negative; ReLU6 would saturate, so that the flow would be 0. Sigmoid
    gates are kept; large inputs open them.

    Args:
        network: The network. It is changed.
        ones: An image of ones, (1, C, H, W). Must be float64, because R grows by a factor with each layer.
    """
    network = _remove_nonlinearities(network).to(ones.device, torch.float64).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    gradients = _gradients(network, _sum(network(ones)))
    return torch.stack([(w.detach() * g).sum() for w, g in zip(_weights(network), gradients, strict=True)]).sum()


def _remove_nonlinearities(module: nn.Module) -> nn.Module:
    """Replace batch norms and activations in `module` by the identity."""
    for name, child in module.named_children():
        replaced = isinstance(child, (nn.BatchNorm2d, *ACTIVATIONS))
        setattr(module, name, nn.Identity() if replaced else _remove_nonlinearities(child))
    return module


def shared_codes(network: nn.Module, images: Tensor) -> Tensor:
    """Count, for each pair of images, the activation units that are on for both or off for both.

    A unit is on if its output is above 0. For ReLU this equals "its input is above 0", as in the code of the authors.
    It also holds for ReLU6, hard-swish and swish, and for activations that work in place. The upper limit of ReLU6 is
    ignored.

    Args:
        network: The network.
        images: Normalized images, (B, 3, R, R).

    Returns:
        The counts, (B, B) in float64.

    Raises:
        TrainingError: The network has no activations.
    """
    shared = torch.zeros((len(images), len(images)), dtype=torch.float64, device=images.device)

    def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        on = (output > 0).flatten(1).float()
        shared.add_(on @ on.T + (1 - on) @ (1 - on).T)

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, ACTIVATIONS)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    if not shared.any():
        raise TrainingError("the network has no activations, so its images have no codes")
    return shared


def sum_of_log_ratios(layers: list[Tensor]) -> float:
    """Return the sum over layers of log(sum over weights of mean |g| / deviation of |g|).

    This is the equation as printed: gradients of separate batches, and the deviation of absolute values. The code of
    the authors accumulates gradients over batches and uses the deviation of signed values. Weights whose gradient
    does not vary are ignored, as in their code.

    Args:
        layers: The gradients of each layer, (batches, ...).

    Returns:
        The sum, or NaN if no gradient varies.
    """
    logs = []
    for layer in layers:
        magnitude = layer.abs().double()
        deviation = magnitude.std(0, correction=0)
        varies = deviation > 0
        ratio = (magnitude.mean(0)[varies] / deviation[varies]).sum()
        if ratio > 0:
            logs.append(ratio.log().item())
    return sum(logs) if logs else math.nan


def independence(jacobian: Tensor) -> float:
    """Return -sum(log(v + k) + 1 / (v + k)) over the eigenvalues v of the correlation matrix of the rows, k = 1e-5.

    This is the log-likelihood of uncorrelated rows. The maximum is -B, when all eigenvalues are 1.

    Args:
        jacobian: Gradients with respect to the inputs, (B, N).
    """
    values = torch.linalg.eigvalsh(torch.corrcoef(jacobian.double())) + 1e-5
    return -float((values.log() + 1 / values).sum())


def _weights(network: nn.Module) -> list[Tensor]:
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the gradient of the loss for the weights of each layer; zeros if the loss does not depend on them."""
    weights = _weights(network)
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
