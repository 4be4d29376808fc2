from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.calibration import Calibration, Certificate, Sample, certify, fit
from nas.errors import TableError
from nas.network import trace
from nas.space_file import load_architecture


def samples(count: int, truth: Calibration, noise: float = 0.0) -> list[Sample]:
    rng = random.Random(count)
    found = []
    for _ in range(count):
        bare = Sample(rng.uniform(1, 30), rng.randrange(10**5, 10**7), 0.0)
        found.append(Sample(bare.table_ms, bare.elements, truth.total_ms(bare) * rng.uniform(1 - noise, 1 + noise)))
    return found


@pytest.mark.parametrize(
    "truth",
    [
        Calibration(0.0, 0.8, 0.0),
        Calibration(0.5, 1.1, 0.0),
        Calibration(0.3, 0.9, -0.05),
        Calibration(0.0, 1.0, 0.08),
    ],
)
def test_the_fit_finds_what_networks_really_cost(truth: Calibration) -> None:
    found = fit(samples(20, truth))
    assert found.constant_ms == pytest.approx(truth.constant_ms, abs=1e-6)
    assert found.scale == pytest.approx(truth.scale, abs=1e-6)
    assert found.ms_per_mega == pytest.approx(truth.ms_per_mega, abs=1e-6)
    assert found.networks == 20
    assert found.error == pytest.approx(0.0, abs=1e-6)


def test_the_error_of_a_fit_is_that_on_networks_left_out() -> None:
    truth = Calibration(0.5, 1.1, 0.0)
    found = fit(samples(40, truth, noise=0.04))
    unseen = samples(200, truth, noise=0.04)
    error = sum(abs(found.total_ms(s) / s.measured_ms - 1) for s in unseen) / len(unseen)
    assert found.error == pytest.approx(error, rel=0.4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_networks_fit_one_factor_only(count: int) -> None:
    found = fit(samples(count, Calibration(0.5, 1.1, 0.0)))
    assert found.constant_ms == found.ms_per_mega == 0.0
    assert 1.0 < found.scale < 1.8


def test_without_networks_nothing_can_be_fitted() -> None:
    with pytest.raises(TableError, match="at least one"):
        fit([])


def test_a_calibrated_network_is_the_constant_and_its_calibrated_layers() -> None:
    layers, calibration = trace(load_architecture("mobilenet_v2_1.0")), Calibration(0.7, 1.2, -0.03)
    elements = sum(math.prod(layer.out_shape) for layer in layers)
    whole = calibration.total_ms(Sample(2.0 * len(layers), elements, 0.0))
    assert 0.7 + sum(calibration.layer_ms(layer, 2.0) for layer in layers) == pytest.approx(whole)


def test_a_certificate_counts_errors_beside_the_measured() -> None:
    certificate = certify([1.0, 2.08, 3.24, 4.6], [1.0, 2.0, 3.0, 4.0], 0.01)
    assert certificate.networks == 4
    assert certificate.mean_error == pytest.approx((0.0 + 0.04 + 0.08 + 0.15) / 4)
    assert certificate.worst_error == pytest.approx(0.15)
    assert certificate.within_5 == 0.5
    assert certificate.within_10 == 0.75
    assert certificate.spearman == pytest.approx(1.0)
    assert "mean error 6.8%" in str(certificate)


@given(st.floats(-1, 1), st.floats(0.1, 3), st.floats(-1, 1), st.integers(0, 99))
def test_calibrations_are_read_back(constant: float, scale: float, mega: float, networks: int) -> None:
    calibration = Calibration(constant, scale, mega, networks, 0.01)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize("data", [{}, {"scale": 1.0}, [], {**Calibration().to_dict(), "scale": math.nan}])
def test_a_broken_calibration_is_refused(data: dict[str, float]) -> None:
    with pytest.raises(TableError, match="calibration"):
        Calibration.from_dict(data)


def test_a_broken_certificate_is_refused() -> None:
    with pytest.raises(TableError, match="a certificate must have networks"):
        Certificate.from_dict({"networks": 1})
