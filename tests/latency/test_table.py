from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TableError
from nas.latency.calibration import Calibration, certify
from nas.latency.rows import CALIBRATION, MeasuredNetwork, RepeatedLayer, boundary_layer, row_key
from nas.latency.table import LatencyTable
from nas.networks.network import output_maps, output_shapes, trace
from nas.spaces.yaml_format import load_architecture

HEADER: dict[str, Any] = {
    "device": {"processor": "X1", "cores": 2},
    "runtime": "onnxruntime",
    "runtime_version": "1.0",
    "threads": 1,
    "dtype": "float32",
}
ARCH = load_architecture("mobilenet_v2_1.0")
LAYERS = list(dict.fromkeys(trace(ARCH)))


@pytest.fixture
def table(tmp_path: Path) -> LatencyTable:
    table = LatencyTable.open(tmp_path / "device" / "table.jsonl", HEADER)
    table.append((layer, samples(1.0 + index, 1.0 + index, 9.0)) for index, layer in enumerate(LAYERS))
    return table


def samples(*ms: float) -> list[tuple[float, float]]:
    return [(1000.0 * index, value) for index, value in enumerate(ms)]


def test_a_table_is_read_back_as_it_was_written(table: LatencyTable) -> None:
    again = LatencyTable.open(table.path)
    assert again.rows == table.rows
    assert again.header == {"format": 2, **HEADER}
    assert again.missing(LAYERS, 3) == []
    assert again.missing(LAYERS, 4) == LAYERS


def test_a_prediction_is_the_sum_of_the_medians(table: LatencyTable) -> None:
    expected = sum(table.latency_ms(layer) for layer in trace(ARCH))
    assert table.predictor("any").predict(ARCH) == pytest.approx(expected)
    assert table.latency_ms(LAYERS[4]) == pytest.approx(5.0, rel=0.005)


def test_visits_of_several_passes_add_up(table: LatencyTable) -> None:
    table.append([(LAYERS[0], samples(3.0, 3.0, 3.0, 3.0, 3.0))])
    assert table.sample_count(LAYERS[0]) == 8
    assert table.latency_ms(LAYERS[0]) == pytest.approx(3.0, rel=0.005)
    assert LatencyTable.open(table.path).sample_count(LAYERS[0]) == 8


def test_a_slow_time_of_the_machine_is_divided_out(tmp_path: Path) -> None:
    table = LatencyTable.open(tmp_path / "table.jsonl", HEADER)
    for second in range(12):
        slow = 1.4 if second < 4 else 1.0
        table.append(
            (layer, [(second + index / 100, slow * (1.0 + index))])
            for index, layer in enumerate(LAYERS)
            if second < 4 or index % 2 == second % 2
        )
    ratios = [table.latency_ms(layer) / (1.0 + index) for index, layer in enumerate(LAYERS)]
    assert max(ratios) / min(ratios) < 1.01


def test_networks_and_calibration_are_read_back(table: LatencyTable) -> None:
    network = MeasuredNetwork("mobile", CALIBRATION, ARCH)
    table.append([(network, samples(1.0, 2.0, 3.0))])
    table.append([(network, samples(4.0))])
    certificate = certify([1.0, 2.0], [1.0, 2.1], 0.01)
    table.append_calibration("mobile", Calibration(2.0, 0.5, 0.01, 0.1, 8, 0.02), certificate)
    again = LatencyTable.open(table.path)
    assert again.networks == table.networks == [network]
    assert again.sample_count(network) == 4
    assert again.certificates == {"mobile": certificate}
    assert again.missing([network], 4) == []
    assert again.missing([network], 5) == [network]
    assert again.missing([replace(network, space="zoo")]) == [replace(network, space="zoo")]


def test_a_calibrated_prediction_adds_up_over_layers_and_seams(table: LatencyTable) -> None:
    shapes = {shape for layer in LAYERS for shape in output_maps(layer)}
    seams = [boundary_layer(shape) for shape in shapes]
    certificate = certify([1.0, 2.0], [1.0, 2.1], 0.01)
    table.append_calibration("mobile", Calibration(2.0, 0.5, 0.01, 0.1, 8, 0.02), certificate)
    with pytest.raises(TableError, match=r"two of conv\(.*kernel_size=1.*\) at 32x112x112 in series are not covered"):
        table.predictor("mobile").predict(ARCH)
    table.append((seam, samples(1.0)) for seam in seams if table.sample_count(seam) == 0)
    table.append((RepeatedLayer(seam), samples(1.5)) for seam in seams)
    again = LatencyTable.open(table.path)
    assert again.rows == table.rows
    assert again.sample_count(RepeatedLayer(seams[0])) == 1
    saved = [again.boundary_saving_ms(shape) for layer in trace(ARCH) for shape in output_maps(layer)]
    assert saved[0] == pytest.approx(2 * again.latency_ms(boundary_layer((32, 112, 112))) - 1.5, rel=0.05)
    elements = sum(prod(shape) for layer in trace(ARCH) for shape in output_shapes(layer))
    expected = 2.0 * again.predictor("other").predict(ARCH) - 0.5 * sum(saved)
    expected += 0.01 * len(trace(ARCH)) + 0.1 * elements / 1e6
    assert again.predictor("mobile").predict(ARCH) == pytest.approx(expected)


def test_repeatability_is_what_halves_of_the_visits_differ_by(tmp_path: Path) -> None:
    table = LatencyTable.open(tmp_path / "table.jsonl", HEADER)
    for second in range(8):
        table.append((layer, [(second + index / 100, 1.0 + index)]) for index, layer in enumerate(LAYERS))
    steady, moody = (MeasuredNetwork("mobile", CALIBRATION, ARCH.at(size)) for size in (64, 96))
    table.append([(moody, [(index + 0.5, 10.0 + index % 2) for index in range(8)])])
    networks = [MeasuredNetwork("mobile", CALIBRATION, ARCH.at(size)) for size in (128, 160, 192)]
    table.append((network, [(index + 0.4, 10.0) for index in range(8)]) for network in (steady, *networks))
    assert table.repeatability([steady, *networks]) == pytest.approx(0.0, abs=1e-9)
    assert table.repeatability([steady, *networks, moody]) == pytest.approx(1 / 11 / 5, rel=0.2)


def test_other_costs_are_kept_where_they_were_measured(table: LatencyTable) -> None:
    first, second = LAYERS[:2]
    costs = {row_key(first): {"size_bytes": [100.0], "energy_mj": [3.0, 1.0, 2.0]}}
    table.append([(first, samples(1.0)), (second, samples(1.0))], costs)
    again = LatencyTable.open(table.path)
    assert again.cost("energy_mj", first) == 2.0
    assert again.cost("energy_mj", second) is None
    assert again.cost("memory_bytes", first) is None
    assert again.predict_cost("size_bytes", ARCH) is None
    table.append((layer, samples(1.0)) for layer in LAYERS)
    everything = {row_key(layer): {"size_bytes": [10]} for layer in LAYERS}
    table.append([(layer, samples(1.0)) for layer in LAYERS[1:]], everything)
    assert table.predict_cost("size_bytes", ARCH) == 100 + 10 * (len(trace(ARCH)) - 1)


@given(cut=st.integers(1, 10_000))
def test_a_file_cut_anywhere_opens_and_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "table.jsonl"
    table = LatencyTable.open(path, HEADER)
    table.append((layer, samples(1.0)) for layer in LAYERS)
    content = path.read_bytes()
    first_line = content.index(b"\n") + 1
    path.write_bytes(content[: first_line + cut % (len(content) - first_line)])
    again = LatencyTable.open(path, HEADER)
    assert set(again.rows) <= set(table.rows)
    again.append((layer, samples(1.0)) for layer in again.missing(LAYERS))
    assert set(LatencyTable.open(path).rows) == set(table.rows)


def test_a_header_cut_off_by_a_crash_begins_the_table_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"format": 2, "dev', encoding="utf-8")
    table = LatencyTable.open(path, HEADER)
    table.append([(LAYERS[0], samples(1.0))])
    assert LatencyTable.open(path).rows == table.rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"block": "conv"', "line 2"),
        ('{"block": "conv", "in": [3, 8, 8]}', "line 2: a row needs"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": []}', "ms: must be finite numbers above zero"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [-1]}', "ms: must be finite numbers above zero"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [NaN]}', "ms: must be finite numbers above zero"),
        ('{"block": 3, "in": [3, 8, 8], "ms": [1]}', "line 2"),
        ("[]", "line 2: a row needs"),
        (json.dumps(HEADER), "line 2: a second header; a table belongs to one device"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [1, 2], "at": [1]}', "at: must have one number of seconds for each"),
        ('{"block": "conv", "in": [3, 8, 8], "repeat": 3, "ms": [1]}', "line 2: repeat: must be 1 or 2: 3"),
        (
            '{"block": "conv", "in": [3, 8, 8], "ms": [1], "size_bytes": [-5]}',
            "size_bytes: must be finite numbers of at least zero",
        ),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [1], "at": [NaN]}', "at: must be finite numbers"),
        ('{"network": {}, "role": "calibration", "space": "x", "ms": [1]}', "line 2"),
        ('{"network": {}, "role": "judge", "space": "x", "ms": [1]}', "role: must be one of calibration, held_out"),
        (
            '{"space": "x", "calibration": {"scale": 1}, "certificate": {}}',
            "calibration: must have the keys scale",
        ),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(f"{json.dumps({'format': 2, **HEADER})}\n{row}\n", encoding="utf-8")
    with pytest.raises(TableError) as caught:
        LatencyTable.open(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_layer_that_is_not_covered_is_named_with_the_nearest(table: LatencyTable) -> None:
    (other, *_) = trace(ARCH.at(192))
    with pytest.raises(TableError, match=r"conv\(.*\) at 3x192x192 is not covered; nearest is conv\(.*\) at 3x224x224"):
        table.latency_ms(other)


def test_a_table_of_another_device_says_what_differs(table: LatencyTable) -> None:
    assert table.differences({**HEADER}) == {}
    (threads,) = table.differences({**HEADER, "threads": 2}).values()
    assert threads == "threads is 1 in the table and 2 here"
    (device,) = table.differences({**HEADER, "device": {"processor": "Y9", "cores": 2}}).values()
    assert "X1" in device
    assert "Y9" in device


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such latency table"):
        LatencyTable.open(tmp_path / "none.jsonl")
