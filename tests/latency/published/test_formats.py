"""Published tables: what each format means, that conversions cover their spaces, and what a broken file is called."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TableError
from nas.latency.catalog import open_named
from nas.latency.published import Published, complete, is_published, read_published, source_of, uncovered, write_table
from nas.latency.published.sources import SOURCES
from nas.latency.table import LatencyTable
from nas.networks.block_schema import block_spec
from nas.networks.network import Layer, input_shapes, trace, traced
from nas.spaces.automaton import best_path, reachable
from nas.spaces.yaml_format import load_space

BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "published_tables.py"))
FILES = {
    "pixel1": ["singlepath_pixel1.json"],
    "rpi4": ["fbnet_rpi4_jh88.json"],
    "proxylessnas_pixel1": ["proxyless_pixel1_mobile_trim.csv"],
    "ofa_note10": [f"ofa_note10_{resolution}_lookup_table.csv" for resolution in (160, 176, 192, 208, 224)],
}
SHIPPED = ("pixel1", "rpi4")


def original(shared: Path, name: str) -> list[Path]:
    folder = shared / "bench" / "published_latency_tables"
    if not folder.is_dir():
        pytest.skip(f"needs the published tables in {folder}")
    return [folder / file for file in FILES[name]]


def imported(paths: list[Path], tmp_path: Path) -> LatencyTable:
    published = read_published(paths)
    return write_table(published, source_of(published, paths[0].stem), tmp_path / "imported.jsonl")


def proxyless_rows() -> list[tuple[str, float]]:
    """ProxylessNAS's keys for its whole space, written from our layers, with made-up times."""
    rows = []
    for index, layer in enumerate(reachable(load_space("proxylessnas")), start=1):
        (channels, height, width), *_ = input_shapes(layer)
        args = layer.spec.kwargs
        shapes = f"input:{height}x{width}x{channels}-output:"
        if layer.spec.op == "classifier":
            rows.append((f"Conv_1-{shapes}{height}x{width}x1280", float(index)))
            rows.append((f"Logits-input:{height}x{width}x1280-output:1000", float(index)))
            continue
        out, *size = layer.out_shape
        shapes += f"{size[0]}x{size[1]}x{out}"
        kernel, stride = args.get("kernel_size", 3), args.get("stride", 1)
        skip = int(stride == 1 and channels == out)
        tail = f"-expand:{args.get('expand_ratio', 6.0):.0f}-kernel:{kernel}-stride:{stride}-idskip:{skip}"
        rows.append((f"Conv-{shapes}" if layer.spec.op == "conv" else f"expanded_conv-{shapes}{tail}", float(index)))
    return rows


def as_csv(rows: list[tuple[str, Any]]) -> str:
    return "key,count,mean_ms,std_or_var,which\r\n" + "".join(f"{key},3,{ms},0.1,var\r\n" for key, ms in rows)


def single_path() -> dict[str, dict[str, float]]:
    return {str(layer): {str(choice): 1.0 + layer + choice / 10 for choice in range(4)} for layer in range(22)}


def fbnet() -> list[Any]:
    depths_and_first = [(1, True), *[(4, False)] * 5, (1, False)]
    layers = [first or position > 0 for depth, first in depths_and_first for position in range(depth)]
    return [None, None, *([1000.0 + op for op in range(8 + skip)] for skip in layers), *[None] * 4]


def block(op: str, in_shape: Any, **args: Any) -> Layer:
    return traced(block_spec(op, args), in_shape)


@pytest.mark.parametrize("name", FILES)
def test_a_published_table_covers_every_layer_of_its_space(name: str, shared: Path, tmp_path: Path) -> None:
    table = imported(original(shared, name), tmp_path)
    space = load_space(table.header["space"])
    lacking, layers = uncovered(table, space)
    assert lacking == []
    assert layers == len(reachable(space))
    assert is_published(table)
    (source,) = (source for source in SOURCES if source.name == name)
    assert table.header["device"] == {"processor": source.processor}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_tables_are_what_the_originals_convert_to(name: str, shared: Path, tmp_path: Path) -> None:
    table = imported(original(shared, name), tmp_path)
    assert open_named(name).rows == table.rows
    assert open_named(name).header == table.header


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_table_covers_its_space_and_names_source_and_licence(name: str) -> None:
    table = open_named(name)
    assert uncovered(table, load_space(table.header["space"]))[0] == []
    notice = (table.path.parent / "NOTICE").read_text(encoding="utf-8")
    url, commit = table.header["source"].split("@")
    assert f"{name}.jsonl" in notice and url in notice and commit in notice and table.header["licence"][:3] in notice


def test_single_path_nas_is_read_as_its_source_means_it() -> None:
    table = open_named("pixel1")
    ms = table.latency_ms
    kept = {"out_channels": 96}
    assert ms(block("mbconv", (96, 14, 14), out_channels=192, stride=2, kernel_size=5)) == pytest.approx(3.5497, 1e-4)
    assert ms(block("mbconv", (80, 14, 14), **kept, expand_ratio=3)) == pytest.approx(1.7339, 1e-4)  # 13, 0
    three = [2.1805, 2.1805, 2.1937]  # layers 14, 15 and 16 are one layer
    assert ms(block("mbconv", (96, 14, 14), **kept, expand_ratio=3)) == pytest.approx(sum(three) / 3, 1e-3)
    fixed = [block("mbconv", (32, 112, 112), out_channels=16, expand_ratio=1)]
    fixed += [block("mbconv", (192, 7, 7), out_channels=320), block("classifier", ((320, 7, 7),), hidden_channels=1280)]
    assert sum(map(ms, fixed)) == pytest.approx(19.5999, abs=1e-4)


def test_fbnet_is_read_as_its_source_means_it() -> None:
    ms = open_named("rpi4").latency_ms
    shared_args = {"out_channels": 24, "stride": 2}
    assert ms(block("fbnet_block", (16, 32, 32), **shared_args, expand_ratio=1)) == pytest.approx(9.378481, 1e-6)
    grouped = block("fbnet_block", (16, 32, 32), **shared_args, expand_ratio=1, groups=2)
    assert ms(grouped) == pytest.approx(16.170966, 1e-6)
    assert ms(block("fbnet_block", (184, 8, 8), out_channels=352, kernel_size=5)) == pytest.approx(31.248, 1e-4)


@pytest.mark.parametrize(
    ("network", "name", "worst"),
    [("SINGLE_PATH", "pixel1", 0.02), ("PROXYLESS", "proxylessnas_pixel1", 0.03), ("OFA", "ofa_note10", 0.01)],
)
def test_published_networks_are_predicted_at_their_published_latency(
    network: str, name: str, worst: float, shared: Path, tmp_path: Path
) -> None:
    table = open_named(name) if name in SHIPPED else imported(original(shared, name), tmp_path)
    published = BENCHMARK[network].published_ms
    assert BENCHMARK["predicted_ms"](BENCHMARK[network], table) == pytest.approx(published, rel=worst)


def test_networks_around_80_ms_lie_within_what_pixel1_spans() -> None:
    table, space = open_named("pixel1"), load_space("single_path_nas").for_classes(10)
    notes = complete(table, reachable(space))
    assert "the head counts with 1000 classes, as published" in notes
    fastest, slowest = (best_path(space, table.latency_ms, largest=largest)[0] for largest in (False, True))
    assert fastest < 40
    assert slowest > 120


def test_what_was_not_measured_counts_nothing_and_is_said() -> None:
    table, space = open_named("rpi4"), load_space("fbnet").for_classes(100)
    stem, *_, head = trace(best_path(space, lambda layer: layer.macs)[1])
    with pytest.raises(TableError, match="is not covered"):
        table.latency_ms(stem)
    assert complete(table, reachable(space)) == ["stem and head were not measured and count 0 ms"]
    assert (table.latency_ms(stem), table.latency_ms(head)) == (0.0, 0.0)


def test_yaml_is_read_as_csv_is(tmp_path: Path) -> None:
    rows = proxyless_rows()
    (tmp_path / "a.csv").write_text(as_csv(rows))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({key: {"count": 3, "mean": ms, "std": 0.1} for key, ms in rows}))
    first, second = (read_published([tmp_path / name]) for name in ("a.csv", "a.yaml"))
    assert first.digests == second.digests
    assert {(row.layer, row.ms) for row in first.rows} == {(row.layer, row.ms) for row in second.rows}


def test_values_that_we_do_not_know_name_no_device(tmp_path: Path) -> None:
    (tmp_path / "my_phone.csv").write_text(as_csv(proxyless_rows()))
    table = imported([tmp_path / "my_phone.csv"], tmp_path)
    assert table.header["device"] == {"processor": "unknown (my_phone)"}
    assert uncovered(table, load_space("proxylessnas"))[0] == []
    (tmp_path / "other.json").write_text(json.dumps(single_path()))
    lacking = uncovered(imported([tmp_path / "other.json"], tmp_path), load_space("single_path_nas"))[0]
    assert lacking == []
    published = read_published([tmp_path / "other.json"])
    assert [layer.spec.op for layer in published.not_measured] == ["conv", "classifier"]


def replaced(index: int, key: str | None = None, ms: object = None) -> Callable[[], str]:
    def text() -> str:
        rows: list[tuple[str, Any]] = list(proxyless_rows())
        rows[index] = (rows[index][0] if key is None else key, rows[index][1] if ms is None else ms)
        return as_csv(rows)

    return text


def without(part: str) -> Callable[[], str]:
    return lambda: as_csv([row for row in proxyless_rows() if not row[0].startswith(part)])


def changed(data: Any, path: list[Any], value: object) -> Callable[[], str]:
    def text() -> str:
        node = copied = json.loads(json.dumps(data))
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value
        return json.dumps(copied)

    return text


KEPT = "expanded_conv-input:7x7x192-output:7x7x192-expand:3-kernel:3-stride:1-idskip:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda: as_csv(proxyless_rows())[:-12], "line 71: 3 of 5 columns; the file may be cut off"),
        (replaced(3, ms="quick"), "line 5: mean_ms: must be a finite number above zero: 'quick'"),
        (replaced(3, ms="nan"), "line 5: mean_ms: must be a finite number above zero: 'nan'"),
        (replaced(3, ms="-2.5"), "line 5: mean_ms: must be a finite number above zero: '-2.5'"),
        (replaced(3, key="Conv-input:160x160x3-output:80x80x32"), "two stems, of 224 px and 160 px; give one file per"),
        (
            replaced(3, key=KEPT.replace("7x7", "5x5")),
            "224 px gives no feature map of 5x5; give one file per",
        ),
        (replaced(3, key=KEPT.replace("output:7x7", "output:14x14")), "output must be 7x7x192, not 14x14x192"),
        (replaced(3, key=KEPT.replace("stride:1", "stride:2")), "idskip:1 needs stride 1 and equal channels"),
        (replaced(3, key="Convv-input:7x7x8-output:7x7x8"), "unknown layer: 'Convv'; did you mean 'Conv'"),
        (replaced(3, key="expanded_conv"), "line 5: not a key of proxylessnas: 'expanded_conv'"),
        (replaced(3, key=KEPT.replace("kernel:3", "kernel:4")), "line 5: .*kernel_size must be odd"),
        (without("Logits"), "has no row of 'Logits', a part of the head; the file may be cut off"),
        (without("Conv-"), "has no row of the stem 'Conv', which defines the resolution"),
        (lambda: as_csv([*proxyless_rows(), proxyless_rows()[3]]), "line 72: duplicate key: '.*'"),
        (lambda: "key,value\r\na,1\r\n", "line 1: must have the columns key and mean_ms: 'key,value'"),
        (lambda: "Conv-input:8x8x3: {count: 1}", "must be a mapping with 'mean'"),
        (lambda: "a-input: [", "line 1: expected the node content"),
        (lambda: json.dumps(single_path())[:-20], "invalid JSON, the file may be cut off"),
        (
            changed(single_path(), ["3", "1"], "fast"),
            "layer '3': choice '1': must be a finite number above zero: 'fast'",
        ),
        (changed(single_path(), ["3", "1"], float("nan")), "must be a finite number above zero: nan"),
        (changed(single_path(), ["3"], {}), "layer '3': choice '0' is missing"),
        (changed(single_path(), ["22"], {}), "unknown layer; there are 22 layers, '0' to '21': '22'"),
        (lambda: json.dumps({"0": {"0": 1.0}}), "layer '0': choice '1' is missing"),
        (changed(fbnet(), [5, 2], -1.0), "entry 5, operator 2: must be a finite number above zero: -1.0"),
        (changed(fbnet(), [5], [1.0]), "entry 5: 9 times are needed: 1"),
        (changed(fbnet(), [5], None), "entry 5: 9 times are needed: None"),
        (lambda: json.dumps(fbnet()[:20]), "28 entries are needed, not 20; the file may be cut off"),
        (lambda: "a picture of a phone", "not a published latency table; known formats: ProxylessNAS"),
        (lambda: '{"layers": []}', "not a published latency table; known formats: "),
        (lambda: "", "not a published latency table; known formats: "),
    ],
)
def test_a_broken_file_is_one_line_with_place_and_rule(text: Callable[[], str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "published.txt"
    path.write_text(text(), encoding="utf-8")
    with pytest.raises(TableError, match=message) as caught:
        read_published([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_two_tables_are_not_mixed(shared: Path) -> None:
    ofa, proxyless = original(shared, "ofa_note10"), original(shared, "proxylessnas_pixel1")
    with pytest.raises(TableError, match=r"has another format than .*ofa_note10_160.*; import one table at a time"):
        read_published([ofa[0], *proxyless])
    with pytest.raises(TableError, match=r"has 160 px, as .*; give one file per resolution"):
        read_published([ofa[0], ofa[1], ofa[0]])
    with pytest.raises(TableError, match="a ProxylessNAS table is one file, but 2 are given"):
        read_published([*proxyless, ofa[0]])


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="is a folder, not the file of a published table"):
        read_published([tmp_path])
    with pytest.raises(TableError, match="no such file"):
        read_published([tmp_path / "none.csv"])


def test_a_table_of_this_machine_is_not_replaced(tmp_path: Path) -> None:
    header = {"device": {"processor": "X1"}, "runtime": "null", "runtime_version": "1", "threads": 1, "dtype": "f"}
    mine = LatencyTable.open(tmp_path / "mine.jsonl", header)
    mine.append([(block("conv", (3, 8, 8), out_channels=8), [(0.0, 1.0)])])
    (tmp_path / "a.csv").write_text(as_csv(proxyless_rows()))
    published = read_published([tmp_path / "a.csv"])
    before = mine.path.read_bytes()
    with pytest.raises(TableError, match="is not an imported table; it is not replaced"):
        write_table(published, source_of(published, "a"), mine.path)
    assert mine.path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine.jsonl", "a.csv"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.integers(0, 30).map(str), inner, max_size=30),
    max_leaves=40,
)


@given(
    text=st.text(max_size=200)
    | JSON.map(json.dumps)
    | st.text("-:x0123456789,\n input", max_size=99).map("key,mean_ms\n".__add__)
)
def test_any_content_is_a_table_or_a_table_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError):
        read_published([path])


@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_is_refused_or_holds_true_rows(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = as_csv(proxyless_rows())
    path = tmp_path_factory.mktemp("cut") / "file.csv"
    path.write_text(whole[: cut % len(whole)])
    try:
        found: Published = read_published([path])
    except TableError:
        return
    (tmp_whole := path.with_name("whole.csv")).write_text(whole)
    assert {(row.layer, row.ms) for row in found.rows} <= {
        (row.layer, row.ms) for row in read_published([tmp_whole]).rows
    }
