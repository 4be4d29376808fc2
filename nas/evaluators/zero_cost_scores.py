"""What an untrained network tells of its accuracy: zero-cost scores, and the two sizes that they must beat.

Each score is one function of a Probe, higher is better; `zero_cost_score` calls one by name. What they share:
weights are those that `build` gives for a seed; a batch norm takes the statistics of its own batch, since a fresh
one's running statistics say nothing; dropout is off. Weights are those of convolutions and linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.networks.network import Totals, build, totals, trace
from nas.spaces.search_space import Proxy
from nas.training.loop import TrainingError, pick_device
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import normalize
from nas.utils.registry import lookup

BATCH = 64
"""Images that a score looks at."""
ZICO_BATCHES = 4
"""Parts of the batch whose gradients ZiCo compares."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)


@dataclass(frozen=True)
class Batch:
    """Training images as uint8 (B, 3, R, R) with labels (B,), of a task."""

    images: Tensor
    labels: Tensor
    task: Classification


@dataclass(frozen=True)
class Probe:
    """What a score may look at: an architecture, a batch, and the seed of the weights."""

    arch: Architecture
    batch: Batch
    seed: int

    @property
    def size(self) -> Totals:
        """The costs of the network at its deployed resolution."""
        return totals(trace(self.arch))

    def network(self) -> nn.Module:
        """Return the untrained network for the batch's resolution, where the batch lies."""
        torch.manual_seed(self.seed)
        network = build(self.arch.at(self.batch.images.shape[-1])).to(self.batch.images.device).eval()
        for module in network.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        return network


def draw_batch(task: Classification, resolution: int, seed: int) -> Batch:
    """Return BATCH training images, or all where there are fewer, on the device that trains.

    The same seed draws the same images in the same augmentation; torch's global random state stays as it was.
    """
    pictures = task.train_set(resolution, max(BATCH, task.num_classes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        items = [pictures[int(index)] for index in torch.randperm(len(pictures))[:BATCH]]
    device = pick_device()
    images = torch.stack([image for image, _ in items]).to(device)
    return Batch(images, torch.tensor([label for _, label in items], device=device), task)


def score(name: str, arch: Architecture, batch: Batch, seed: int) -> float:
    """Return the score called `name`, of weights of `seed`; torch's global random state stays as it was.

    Raises UsageError for an unknown name and TrainingError where the network has no finite score.
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


def zero_cost_score(name: str, arch: Architecture, task: Classification, proxy: Proxy, seed: int) -> float:
    """Return the raw score called `name` of `arch` at the proxy's resolution, higher is better. Raises as `score`."""
    return score(name, arch, draw_batch(task, proxy.resolution, seed), seed)


def zero_cost_features(
    arch: Architecture, task: Classification, proxy: Proxy, seed: int, names: Iterable[str] = ()
) -> dict[str, float]:
    """Return the raw scores by name, all of ZERO_COST or those of `names`, on one batch. Raises as `score`."""
    batch = draw_batch(task, proxy.resolution, seed)
    return {name: score(name, arch, batch, seed) for name in names or ZERO_COST}


def synflow(probe: Probe) -> float:
    """Log of the synaptic flow of an all-ones image (Tanaka et al. 2020; Abdelfattah et al. 2021, section 3)."""
    images = probe.batch.images
    ones = torch.ones((1, *images.shape[1:]), dtype=torch.float64, device=images.device)
    return float(synaptic_flow(probe.network(), ones).log())


def naswot(probe: Probe) -> float:
    """Log-determinant of how many activation codes pairs of images share (Mellor et al. 2021, section 3)."""
    shared = shared_codes(probe.network(), normalize(probe.batch.images))
    return float(torch.linalg.slogdet(shared).logabsdet)


def zico(probe: Probe) -> float:
    """Log of gradients' means over their deviations between batches, summed over layers (Li et al. 2023, eq. 10)."""
    batch, network = probe.batch, probe.network()
    parts = zip(batch.images.chunk(ZICO_BATCHES), batch.labels.chunk(ZICO_BATCHES), strict=True)
    gradients = [_gradients(network, batch.task.loss(network, images, labels)) for images, labels in parts]
    return sum_of_log_ratios([torch.stack(layer) for layer in zip(*gradients, strict=True)])


def grad_norm(probe: Probe) -> float:
    """Euclidean norm of the loss's gradient in each layer, summed over layers (Abdelfattah et al. 2021, section 3)."""
    batch, network = probe.batch, probe.network()
    gradients = _gradients(network, batch.task.loss(network, batch.images, batch.labels))
    return sum(float(gradient.norm()) for gradient in gradients)


def jacob_cov(probe: Probe) -> float:
    """How little the images' input gradients correlate (Mellor et al. 2020; Abdelfattah et al. 2021, section 3)."""
    images = normalize(probe.batch.images).requires_grad_()
    (jacobian,) = torch.autograd.grad(probe.network()(images).sum(), images)
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
"""Those that depend on no weights, hence on no seed."""


def synaptic_flow(network: nn.Module, ones: Tensor) -> Tensor:
    """Return the sum over weights of |w dR/dw|, R the sum of outputs of the linear network with weights |w|.

    `ones` is (1, C, H, W) in float64, as R grows by a factor with each layer. Batch norms and activations become
    the identity: Abdelfattah's code switches the former off, and ReLU is the identity where nothing is negative;
    ReLU6 would saturate, so the flow of its network would be 0. Sigmoid gates stay; large inputs open them.
    The network's weights are changed.
    """
    network = _linear(network).to(ones.device, torch.float64).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    gradients = _gradients(network, network(ones).sum())
    return torch.stack([(w.detach() * g).sum() for w, g in zip(_weights(network), gradients, strict=True)]).sum()


def _linear(module: nn.Module) -> nn.Module:
    """Replace batch norms and activations in `module` by the identity."""
    for name, child in module.named_children():
        setattr(module, name, nn.Identity() if isinstance(child, (nn.BatchNorm2d, *ACTIVATIONS)) else _linear(child))
    return module


def shared_codes(network: nn.Module, images: Tensor) -> Tensor:
    """Return K (B, B) in float64: the number of activation units that are on, or off, for both images.

    A unit is on where its input is above 0, as the authors' code reads ReLU. Our other activations (ReLU6,
    hard-swish, swish) keep the sign of their input above 0 and are at most 0 elsewhere, so it is on where its output
    is above 0: one rule for all, also where they work in place. ReLU6's second kink has no code.
    Raises TrainingError where nothing is activated.
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
        raise TrainingError("the network has no activation whose code could be read")
    return shared


def sum_of_log_ratios(layers: list[Tensor]) -> float:
    """Return the sum over layers of log(sum over weights of mean |g| / deviation of |g|).

    A layer is (batches, ...) of gradients. As the equation is printed: each batch alone, and the deviation of
    absolute values. The authors' code lets gradients add up from batch to batch and takes that of signed values.
    Weights whose gradient does not vary count nothing, as there; NaN where no weight of any layer varies.
    """
    logs = []
    for layer in layers:
        size = layer.abs().double()
        deviation = size.std(0, correction=0)
        varies = deviation > 0
        ratio = (size.mean(0)[varies] / deviation[varies]).sum()
        if ratio > 0:
            logs.append(ratio.log().item())
    return sum(logs) if logs else math.nan


def independence(jacobian: Tensor) -> float:
    """Return -sum(log(v + k) + 1 / (v + k)) over the eigenvalues v of the rows' correlations, k = 1e-5; (B, N).

    The log-likelihood of no correlation: highest, -B, where all eigenvalues are 1.
    """
    values = torch.linalg.eigvalsh(torch.corrcoef(jacobian.double())) + 1e-5
    return -float((values.log() + 1 / values).sum())


def _weights(network: nn.Module) -> list[Tensor]:
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the gradient of `loss` in each layer's weights, zeros where it does not depend on them."""
    weights = _weights(network)
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
