from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TableError
from nas.latency.calibration import Calibration, Certificate, Features, certify, fit


def networks(count: int, truth: Calibration, noise: float = 0.0) -> list[Features]:
    rng = random.Random(count)
    found = []
    for _ in range(count):
        table_ms = rng.uniform(2, 30)
        counts = rng.randrange(10, 25), rng.randrange(10**5, 10**7), rng.randrange(10**5, 10**7)
        bare = Features(table_ms, rng.uniform(0.05, 0.2) * table_ms, *counts)
        found.append(replace(bare, measured_ms=truth.latency_ms(bare) * rng.uniform(1 - noise, 1 + noise)))
    return found


@pytest.mark.parametrize(
    "truth",
    [
        Calibration(scale=0.8),
        Calibration(scale=1.05, seam=1.2),
        Calibration(scale=1.1, ms_per_layer=-0.02),
        Calibration(scale=0.9, ms_per_mega=-0.05),
        Calibration(scale=1.0, seam=0.8, ms_per_layer=0.03),
        Calibration(scale=1.0, ms_per_mega_params=0.05),
    ],
)
def test_the_fit_finds_what_networks_really_cost(truth: Calibration) -> None:
    found = fit(networks(20, truth))
    unseen = networks(100, truth)
    assert sum(abs(found.latency_ms(s) / s.measured_ms - 1) for s in unseen) / len(unseen) < 0.006
    assert found.networks == 20
    assert found.error == pytest.approx(0.0, abs=0.006)


def test_the_error_of_a_fit_is_that_on_networks_left_out() -> None:
    truth = Calibration(scale=1.1, seam=1.0)
    found = fit(networks(40, truth, noise=0.04))
    unseen = networks(200, truth, noise=0.04)
    error = sum(abs(found.latency_ms(s) / s.measured_ms - 1) for s in unseen) / len(unseen)
    assert found.error == pytest.approx(error, rel=0.4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_networks_move_the_scale_and_hardly_the_rest(count: int) -> None:
    truth = Calibration(scale=1.2, seam=1.0)
    found = fit(networks(count, truth))
    assert found.scale == pytest.approx(1.2, abs=0.05)
    assert found.seam == pytest.approx(1.0, abs=0.3)
    unseen = networks(100, truth)
    assert sum(abs(found.latency_ms(s) / s.measured_ms - 1) for s in unseen) / len(unseen) < 0.03


def test_without_networks_nothing_can_be_fitted() -> None:
    with pytest.raises(TableError, match="at least one"):
        fit([])


def test_a_network_is_the_sum_of_its_layers() -> None:
    calibration = Calibration(1.2, 0.9, 0.01, -0.03, ms_per_mega_params=0.02)
    layers = [Features(0.5 * index, 0.01 * index, 1, 1000 * index, 300 * index) for index in range(1, 9)]
    names = ("table_ms", "boundary_saving_ms", "layers", "elements", "params")
    parts = [[getattr(layer, name) for layer in layers] for name in names]
    whole = Features(*map(sum, parts))
    assert sum(map(calibration.latency_ms, layers)) == pytest.approx(calibration.latency_ms(whole))


def test_a_certificate_counts_errors_beside_the_measured() -> None:
    certificate = certify([1.0, 2.08, 3.24, 4.6], [1.0, 2.0, 3.0, 4.0], 0.01)
    assert certificate.networks == 4
    assert certificate.mean_error == pytest.approx((0.0 + 0.04 + 0.08 + 0.15) / 4)
    assert certificate.worst_error == pytest.approx(0.15)
    assert certificate.within_5 == 0.5
    assert certificate.within_10 == 0.75
    assert certificate.spearman == pytest.approx(1.0)
    assert "mean error 6.8%" in str(certificate)


@given(st.floats(0.1, 3), st.floats(-2, 2), st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 99))
def test_calibrations_are_read_back(scale: float, seam: float, layer: float, mega: float, networks: int) -> None:
    calibration = Calibration(scale, seam, layer, mega, networks, 0.01)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize("data", [{}, {"scale": 1.0}, [], {**Calibration().to_dict(), "scale": math.nan}])
def test_a_broken_calibration_is_refused(data: dict[str, float]) -> None:
    with pytest.raises(TableError, match="calibration"):
        Calibration.from_dict(data)


def test_a_broken_certificate_is_refused() -> None:
    with pytest.raises(TableError, match="certificate: must have the keys networks"):
        Certificate.from_dict({"networks": 1})


def test_a_calibration_of_before_has_no_term_for_the_parameters() -> None:
    names = ("scale", "seam", "ms_per_layer", "ms_per_mega", "networks", "error")
    stored = dict(zip(names, (1.1, 0.9, 0.01, -0.2, 20, 0.02), strict=True))
    assert Calibration.from_dict(stored).to_dict() == stored, "the digests of tables do not change"
    newer = Calibration(1.1, ms_per_mega_params=0.05)
    assert Calibration.from_dict(newer.to_dict()) == newer
    with pytest.raises(TableError, match="must have the keys"):
        Calibration.from_dict({name: stored[name] for name in names[1:]})
