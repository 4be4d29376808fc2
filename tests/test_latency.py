from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TableError
from nas.latency import LatencyTable
from nas.network import trace
from nas.space_file import load_architecture

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
    table.append((layer, [1.0 + index, 9.0, 9.0]) for index, layer in enumerate(LAYERS))
    return table


def test_a_table_is_read_back_as_it_was_written(table: LatencyTable) -> None:
    again = LatencyTable.open(table.path)
    assert again.rows == table.rows
    assert again.header == {"format": 1, **HEADER}
    assert again.missing(LAYERS, 3) == []
    assert again.missing(LAYERS, 4) == LAYERS


def test_a_prediction_is_the_sum_of_the_low_quantiles(table: LatencyTable) -> None:
    expected = sum(table.latency_ms(layer) for layer in trace(ARCH))
    assert table.predict(ARCH) == pytest.approx(expected)
    assert table.latency_ms(LAYERS[0]) == pytest.approx(5.0)


def test_visits_of_several_passes_add_up(table: LatencyTable) -> None:
    table.append([(LAYERS[0], [1.0, 1.0, 1.0, 1.0, 1.0])])
    assert table.visits(LAYERS[0]) == 8
    assert table.latency_ms(LAYERS[0]) == pytest.approx(1.0)
    assert LatencyTable.open(table.path).visits(LAYERS[0]) == 8


@given(cut=st.integers(1, 10_000))
def test_a_file_cut_anywhere_opens_and_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "table.jsonl"
    table = LatencyTable.open(path, HEADER)
    table.append((layer, [1.0]) for layer in LAYERS)
    content = path.read_bytes()
    first_line = content.index(b"\n") + 1
    path.write_bytes(content[: first_line + cut % (len(content) - first_line)])
    again = LatencyTable.open(path, HEADER)
    assert set(again.rows) <= set(table.rows)
    again.append((layer, [1.0]) for layer in again.missing(LAYERS))
    assert set(LatencyTable.open(path).rows) == set(table.rows)


def test_a_header_cut_off_by_a_crash_begins_the_table_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"format": 1, "dev', encoding="utf-8")
    table = LatencyTable.open(path, HEADER)
    table.append([(LAYERS[0], [1.0])])
    assert LatencyTable.open(path).rows == table.rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"block": "conv"', "line 2"),
        ('{"block": "conv", "in": [3, 8, 8]}', "line 2: a row needs"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": []}', "ms must be finite numbers above zero"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [-1]}', "ms must be finite numbers above zero"),
        ('{"block": "conv", "in": [3, 8, 8], "ms": [NaN]}', "ms must be finite numbers above zero"),
        ('{"block": 3, "in": [3, 8, 8], "ms": [1]}', "line 2"),
        ("[]", "line 2: a row needs"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(f"{json.dumps({'format': 1, **HEADER})}\n{row}\n", encoding="utf-8")
    with pytest.raises(TableError) as caught:
        LatencyTable.open(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_layer_that_is_not_covered_is_named_with_the_nearest(table: LatencyTable) -> None:
    (other, *_) = trace(ARCH.at(192))
    with pytest.raises(TableError, match=r"conv\(.*\) at 3x192x192 is not covered; nearest is conv\(.*\) at 3x224x224"):
        table.latency_ms(other)


def test_a_table_of_another_device_says_what_differs(table: LatencyTable) -> None:
    assert table.differences({**HEADER}) == []
    (threads,) = table.differences({**HEADER, "threads": 2})
    assert threads == "threads is 1 in the table and 2 here"
    (device,) = table.differences({**HEADER, "device": {"processor": "Y9", "cores": 2}})
    assert "X1" in device
    assert "Y9" in device


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such latency table"):
        LatencyTable.open(tmp_path / "none.jsonl")
