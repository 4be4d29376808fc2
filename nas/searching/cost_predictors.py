"""Cost predictors: the latency, energy and memory of a network before it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.architecture import Architecture
from nas.errors import TableError
from nas.latency.table import LatencyPredictor, LatencyTable
from nas.networks.network import Layer, totals, trace
from nas.spaces.automaton import Cost, reachable, unroll
from nas.spaces.cost_tables import tabulate_automaton
from nas.spaces.search_space import Space
from nas.study.objectives import Goal
from nas.study.ranking import ReferencePoint

Predict = Callable[[Architecture], float]
FEWEST_NETWORKS = 8
"""How many networks with a measured peak memory the memory model needs at least. It has three weights."""


@dataclass(frozen=True)
class MemoryModel:
    """Peak memory of a process in bytes: `base + per_param * parameters + per_element * peak activation`.

    Attributes:
        base: Bytes that every network needs.
        per_param: Bytes for each parameter.
        per_element: Bytes for each element of the largest activations that exist at the same time.
        error: Mean relative error on the networks that the model was fitted to.
    """

    base: float
    per_param: float
    per_element: float
    error: float

    def predict(self, params: float, peak_activation: float) -> float:
        """Return the peak memory in bytes for a number of parameters and of simultaneous activation elements."""
        return self.base + self.per_param * params + self.per_element * peak_activation


def fit_memory(table: LatencyTable) -> MemoryModel:
    """Fit the memory model to the table's whole networks, with weights that are not negative.

    A peak is not a sum over layers: all weights are in memory, and the largest activations are added once.

    Raises:
        TableError: Too few networks of the table have a measured peak.
    """
    from scipy.optimize import nnls

    peaks = {network: table.cost("memory_bytes", network) for network in table.networks}
    known = [(totals(trace(network.arch)), peak) for network, peak in peaks.items() if peak is not None]
    if len(known) < FEWEST_NETWORKS:
        raise TableError(
            f"--axes memory: {len(known)} of its {len(peaks)} whole networks have a peak memory, "
            f"{FEWEST_NETWORKS} are needed: profile with a runtime that reports it",
            where=table.path,
        )
    parts = np.array([[1.0, total.params, total.peak_activation] for total, _ in known])
    truth = np.array([peak for _, peak in known])
    scale = parts.max(axis=0)
    weights = nnls(parts / scale / truth[:, None], np.ones(len(truth)))[0] / scale  # least squares of relative errors
    error = float(np.mean(np.abs(parts @ weights / truth - 1)))
    base, per_param, per_element = map(float, weights)
    return MemoryModel(base, per_param, per_element, error)


@dataclass(frozen=True)
class CostPredictors:
    """Predictors of everything that a search optimizes besides accuracy.

    Attributes:
        predictors: The latency predictor of each device.
        energy: Whether energy is predicted, from the first device's table.
        memory: The model of peak memory, if an axis needs it.
        worst: The front's reference point: accuracy 0, and on each other axis the largest cost in the space.
    """

    predictors: tuple[LatencyPredictor, ...]
    energy: bool = False
    memory: MemoryModel | None = None
    worst: ReferencePoint | None = None

    @property
    def predict(self) -> Predict:
        """Predicts the latency of a network on the first device, in ms."""
        return self.predictors[0].predict

    @property
    def layer_ms(self) -> Cost | list[Cost]:
        """Predicts a layer's share of the latency in ms; a list of such functions for several devices."""
        each: list[Cost] = [predictor.layer_ms for predictor in self.predictors]
        return each[0] if len(each) == 1 else each

    def hold_a_target(self, arch: Architecture, goals: Sequence[Goal]) -> bool:
        """Return whether a network is within the target of one of the goals, by prediction."""
        return any(self.predictors[goal.device].predict(arch) <= goal.target_ms for goal in goals)

    def extra_metrics(self, arch: Architecture) -> dict[str, Any]:
        """Return those fields of a network's Metrics that only several devices, energy or memory need."""
        found: dict[str, Any] = {}
        if len(self.predictors) > 1:
            found["latencies_ms"] = tuple(predictor.predict(arch) for predictor in self.predictors)
        if self.energy:
            found["energy_mj"] = self.predictors[0].table.predict_cost("energy_mj", arch)
        if self.memory:
            whole = totals(trace(arch))
            found["memory_bytes"] = self.memory.predict(whole.params, whole.peak_activation)
        return found


def make_cost_predictors(predictors: Sequence[LatencyPredictor], space: Space, axes: Sequence[str]) -> CostPredictors:
    """Return the predictors for the axes of a front; no axes means latency only.

    Raises:
        TableError: The first table lacks the energy or memory that an axis needs.
    """
    table = predictors[0].table
    if "energy" in axes:
        for layer in reachable(space):
            energy_mj(table, layer)
    costs = CostPredictors(tuple(predictors), "energy" in axes, fit_memory(table) if "memory" in axes else None)
    return replace(costs, worst=worst_point(space, costs, axes)) if axes else costs


def energy_mj(table: LatencyTable, layer: Layer) -> float:
    """Return the energy of one call of a layer in mJ. Raises TableError when it was not measured."""
    found = table.cost("energy_mj", layer)
    if found is None:
        raise TableError(
            f"--axes energy: it has no energy of '{layer.spec.op}' at {list(layer.in_shape)}: "
            "profile with --energy on a device that has a meter",
            where=table.path,
        )
    return found


def worst_point(space: Space, costs: CostPredictors, axes: Sequence[str]) -> ReferencePoint:
    """Return the reference point of a front: accuracy 0, and on each other axis the largest cost in the space."""
    lattice, table = unroll(space), costs.predictors[0].table

    def largest(cost: Cost) -> float:
        return tabulate_automaton(lattice, cost).max_cost

    found: dict[str, tuple[float, ...]] = {}
    for axis in axes:
        if axis == "accuracy":
            found[axis] = (0.0,)
        elif axis == "latency":
            found[axis] = tuple(largest(predictor.layer_ms) for predictor in costs.predictors)
        elif axis in ("params", "macs"):
            found[axis] = (largest(lambda layer, axis=axis: float(getattr(layer, axis))),)  # type: ignore[misc]
        elif axis == "energy":
            found[axis] = (largest(lambda layer: energy_mj(table, layer)),)
        elif costs.memory:
            peak = max(layer.peak_activation for layer in reachable(space))
            found[axis] = (costs.memory.predict(largest(lambda layer: layer.params), peak),)
    return found
