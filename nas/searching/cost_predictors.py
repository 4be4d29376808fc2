"""What is known of a network before any evaluation: its latency on each device, and its energy and memory."""

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
from nas.study.ranking import ReferencePoint

Predict = Callable[[Architecture], float]
FEWEST_NETWORKS = 8
"""So many whole networks with a measured peak of memory are needed to predict that of others by three weights."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process in bytes: `base + per_param * parameters + per_element * peak activation`.

    `error` is the mean relative error on the networks that it was fitted to.
    """

    base: float
    per_param: float
    per_element: float
    error: float

    def at(self, params: float, peak_activation: float) -> float:
        """Return the peak in bytes for so many parameters and elements of activations alive at once."""
        return self.base + self.per_param * params + self.per_element * peak_activation


def fit_memory(table: LatencyTable) -> Memory:
    """Return what the peaks of the table's whole networks tell. Raises TableError where it has too few.

    A peak is no sum over layers: weights stay, and the largest activations come on top. The weights of that model are
    not negative.
    """
    from scipy.optimize import nnls

    peaks = {network: table.cost("memory_bytes", network) for network in table.networks}
    known = [(totals(trace(network.arch)), peak) for network, peak in peaks.items() if peak is not None]
    if len(known) < FEWEST_NETWORKS:
        raise TableError(
            f"{table.path}: --axes memory: {len(known)} of its {len(peaks)} whole networks have a peak memory, "
            f"{FEWEST_NETWORKS} are needed: profile where the runtime tells it"
        )
    parts = np.array([[1.0, total.params, total.peak_activation] for total, _ in known])
    truth = np.array([peak for _, peak in known])
    scale = parts.max(axis=0)
    weights = nnls(parts / scale / truth[:, None], np.ones(len(truth)))[0] / scale  # the relative errors count
    error = float(np.mean(np.abs(parts @ weights / truth - 1)))
    base, per_param, per_element = map(float, weights)
    return Memory(base, per_param, per_element, error)


@dataclass(frozen=True)
class CostPredictors:
    """The predictors of all devices, the first device's first, and what else the axes of a front ask for.

    `worst` is the front's reference: accuracy 0, and along the other axes the most that the space has.
    """

    predictors: tuple[LatencyPredictor, ...]
    energy: bool = False
    memory: Memory | None = None
    worst: ReferencePoint | None = None

    @property
    def predict(self) -> Predict:
        """What gives the latency on the first device, in ms."""
        return self.predictors[0].predict

    @property
    def layer_ms(self) -> Cost | list[Cost]:
        """What gives a layer's share in ms: on the one device, or a list of that on each."""
        each: list[Cost] = [predictor.layer_ms for predictor in self.predictors]
        return each[0] if len(each) == 1 else each

    def extra_metrics(self, arch: Architecture) -> dict[str, Any]:
        """Return the fields of Metrics that a search of one device and of accuracy and latency alone does not have."""
        found: dict[str, Any] = {}
        if len(self.predictors) > 1:
            found["latencies_ms"] = tuple(predictor.predict(arch) for predictor in self.predictors)
        if self.energy:
            found["energy_mj"] = self.predictors[0].table.predict_cost("energy_mj", arch)
        if self.memory:
            whole = totals(trace(arch))
            found["memory_bytes"] = self.memory.at(whole.params, whole.peak_activation)
        return found


def make_cost_predictors(predictors: Sequence[LatencyPredictor], space: Space, axes: Sequence[str]) -> CostPredictors:
    """Return what the axes need. Raises TableError where the first table did not measure it for the space."""
    table = predictors[0].table
    if "energy" in axes:
        for layer in reachable(space):
            energy_mj(table, layer)
    forecast = CostPredictors(tuple(predictors), "energy" in axes, fit_memory(table) if "memory" in axes else None)
    return replace(forecast, worst=worst_of(space, forecast, axes)) if axes else forecast


def energy_mj(table: LatencyTable, layer: Layer) -> float:
    """Return the energy of a layer's call in mJ. Raises TableError where it was not measured."""
    found = table.cost("energy_mj", layer)
    if found is None:
        raise TableError(
            f"{table.path}: --axes energy: it has no energy of '{layer.spec.op}' at {list(layer.in_shape)}: "
            "profile with --energy on a device that tells it"
        )
    return found


def worst_of(space: Space, forecast: CostPredictors, axes: Sequence[str]) -> ReferencePoint:
    """Return the reference of a front: accuracy 0, and along the other axes the most that the space has."""
    lattice, table = unroll(space), forecast.predictors[0].table

    def most(cost: Cost) -> float:
        return tabulate_automaton(lattice, cost).max_cost

    found: dict[str, tuple[float, ...]] = {}
    for axis in axes:
        if axis == "accuracy":
            found[axis] = (0.0,)
        elif axis == "latency":
            found[axis] = tuple(most(predictor.layer_ms) for predictor in forecast.predictors)
        elif axis in ("params", "macs"):
            found[axis] = (most(lambda layer, axis=axis: float(getattr(layer, axis))),)  # type: ignore[misc]
        elif axis == "energy":
            found[axis] = (most(lambda layer: energy_mj(table, layer)),)
        elif forecast.memory:
            peak = max(layer.peak_activation for layer in reachable(space))
            found[axis] = (forecast.memory.at(most(lambda layer: layer.params), peak),)
    return found
