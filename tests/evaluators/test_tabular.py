"""Tables of accuracies: every form that is read, every mistake that is named, and searches over them."""

from __future__ import annotations

import csv
import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli.main import main
from nas.errors import DataError, NasError
from nas.evaluators.accuracy_table import read_accuracies
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.tabular import Tabular
from nas.networks.network import canonical
from nas.spaces.search_space import Choices, Space
from nas.spaces.yaml_format import load_space, parse_space
from nas.study.objectives import Metrics
from nas.study.study import open_study
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter
from tests.helpers.trials import record, record_failure

pytestmark = pytest.mark.usefixtures("warm_cache")

BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "nb_macro.py"))
DATA = {
    "resolution": 32,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": ["separable", {"op": "mbconv", "expand_ratio": [2, 3]}], "out_channels": [12, 16], "depth": [1, 2]},
        {"block": "osa", "out_channels": 16, "mid_channels": 8, "ese": [False, True], "depth": [0, 1]},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}
SPACE: Space = parse_space("small", DATA, "small.yaml")
KEYS = list(SPACE.choices)
HEADER = ",".join(KEYS)


def cells(choices: Choices) -> str:
    return ",".join(str(choices.get(key, "")) for key in KEYS)


def some(seed: int) -> Choices:
    return SPACE.sample(random.Random(seed))


def digest(choices: Choices) -> str:
    return canonical(SPACE.decode(choices)).digest


def evaluated(path: Path, choices: Choices, seed: int = 0) -> list[float]:
    setup = EvaluatorContext(
        Classification.load("digits"), SPACE, path.parent, source=path, reporter=Reporter(quiet=True)
    )
    return list(Tabular(setup).evaluate(SPACE.decode(choices), seed))


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_choices_and_one_accuracy(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEADER},accuracy", f"{cells(some(0))},0.5", "", f"{cells(some(1))},1")
    assert evaluated(path, some(0)) == [0.5]
    assert evaluated(path, some(1)) == [1.0]


def test_seeds_are_picked_by_the_seed_and_fidelities_come_cheapest_first(tmp_path: Path) -> None:
    header = "accuracy_seed1,accuracy@12_2,accuracy@12_seed0,accuracy@4,accuracy_seed0"
    path = write(tmp_path, f"architecture,{header}", f"{digest(some(0))},91,62,60,40,90")
    assert evaluated(path, some(0), seed=0) == [0.4, 0.6, 0.9]
    assert evaluated(path, some(0), seed=1) == [0.4, 0.62, 0.91]
    assert evaluated(path, some(0), seed=4) == [0.4, 0.6, 0.9]


def test_a_table_tells_its_fidelities_and_whether_it_has_seeds(tmp_path: Path) -> None:
    def told(columns: str) -> tuple[int | None, bool]:
        path = write(tmp_path, f"architecture,{columns}", digest(some(0)) + ",0.5" * (1 + columns.count(",")))
        setup = EvaluatorContext(Classification.load("digits"), SPACE, tmp_path, source=path)
        return Tabular.epochs(setup), Tabular(setup).deterministic

    assert told("accuracy") == (None, True)
    assert told("accuracy@4,accuracy@12,accuracy") == (3, True)
    assert told("accuracy@4,accuracy_seed0,accuracy_seed1") == (2, False)


def test_trainings_stop_early_on_a_table_of_several_fidelities(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space(str(tiny_space)).for_classes(10)
    digests = {canonical(space.decode(space.sample(random.Random(seed)))).digest for seed in range(400)}
    rows = [f"{name},{int(name[:4], 16) / 2**17},{int(name[:4], 16) / 2**16}" for name in sorted(digests)]
    path = write(tmp_path, "architecture,accuracy@1,accuracy", *rows)
    flags = ["--controller", "random", "--trials", "9", "--fidelity", "halving", "--accuracies", str(path)]
    assert main(search_args(tiny_space, tmp_path / "run", *flags, "--objective", "constrained")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stopped"] > 0
    assert {len(trial["curve"]) for trial in result["candidates"]} == {1, 2}
    kept = [trial["architecture"] for trial in result["candidates"] if not trial["stopped_at"]]
    for source in (tmp_path / "run", tmp_path / "run" / "result.json"):  # a rung's accuracy is no final one
        assert set(read_accuracies(source, space).rows) == set(kept)
    write(tmp_path, "architecture,accuracy", f"{kept[0]},0.5")
    assert main(search_args(tiny_space, tmp_path / "other", *flags)) == 2
    assert "--fidelity: 'tabular' has no epochs after which to stop: 'halving'" in capsys.readouterr().err


def test_json_digests_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "accuracy"])
        writer.writerow([json.dumps(SPACE.decode(some(3)).to_dict()), 0.25])
        writer.writerow([digest(some(4)), 0.75])
    assert evaluated(path, some(3)) == [0.25]
    assert evaluated(path, some(4)) == [0.75]


def test_parquet_says_what_csv_says(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [some(seed) for seed in range(4)]
    columns = {key: [row.get(key) for row in rows] for key in KEYS}
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({**columns, "accuracy": [0.1, 0.2, 0.3, 0.4]}), path)
    for seed in range(4):
        assert evaluated(path, some(seed)) == [(seed + 1) / 10]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"table.parquet: cannot be read as Parquet"):
        read_accuracies(path, SPACE)


def test_whole_numbers_and_truth_may_be_spelled_otherwise(tmp_path: Path) -> None:
    spelled = {"12": "12.0", "16": "1.6e1", "True": "true", "False": "FALSE"}
    lines = [",".join(spelled.get(cell, cell) for cell in cells(some(seed)).split(",")) for seed in range(8)]
    path = write(tmp_path, f"{HEADER},accuracy", *(f"{line},0.5" for line in lines))
    assert len(read_accuracies(path, SPACE).rows) == len({digest(some(seed)) for seed in range(8)})


def test_an_architecture_that_is_missing_fails_with_the_nearest(tmp_path: Path) -> None:
    base = next(row for row in map(some, range(50)) if row["stage1.block"] == "mbconv" and row["stage1.depth"] == 1)
    near = {**base, "stage1.mbconv.expand_ratio": 3.0, "stage2.depth": 0}
    asked = {**base, "stage1.mbconv.expand_ratio": 2.0, "stage2.depth": 0}
    far = {**near, "stage1.depth": 2, "stage1.out_channels": 28 - int(near["stage1.out_channels"])}
    path = write(tmp_path, f"{HEADER},accuracy", f"{cells(far)},0.5", f"{cells(near)},0.5")
    with pytest.raises(TrainingError) as failure:
        evaluated(path, asked)
    assert str(failure.value).startswith(f"{digest(asked)} is not in {path}; the nearest is row 3 with mbconv(")
    path = write(tmp_path, "architecture,accuracy", f"{digest(near)},0.5")
    with pytest.raises(TrainingError, match=f"{digest(asked)} is not in {path}$"):
        evaluated(path, asked)


GOOD = cells(some(0))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "contains no rows"),
        (["accuracy"], "contains no rows"),
        ([f"{HEADER},acuracy", f"{GOOD},0.5"], "unknown column: 'acuracy'; did you mean 'accuracy'?"),
        ([f"{HEADER.replace('stage1.depth', 'stage1.dept')},accuracy", f"{GOOD},0.5"],
         "unknown column: 'stage1.dept'; did you mean 'stage1.depth'?"),
        ([HEADER, GOOD], "has no column 'accuracy'"),
        ([f"{HEADER},accuracy,accuracy", f"{GOOD},0.5,0.5"], "the column occurs 2 times: 'accuracy'"),
        ([f"{HEADER},accuracy_1,accuracy_seed1", f"{GOOD},0.5,0.5"],
         "has the same fidelity and seed as the column 'accuracy_1': 'accuracy_seed1'"),
        ([f"{HEADER},architecture,accuracy", f"{GOOD},{'0' * 16},0.5"],
         f"cannot have both the column 'architecture' and choices: '{KEYS[0]}'"),
        ([f"{HEADER},accuracy", f"{GOOD}"], f"row 2: has {len(KEYS)} cells, but the header has {len(KEYS) + 1}"),
        ([f"{HEADER},accuracy", f"{GOOD},"], "row 2: accuracy: must be a number: ''"),
        ([f"{HEADER},accuracy", f"{GOOD},high"], "row 2: accuracy: must be a number: 'high'"),
        ([f"{HEADER},accuracy", f"{GOOD},nan"], "row 2: accuracy: must be in [0, 1], or in [0, 100] as percent: nan"),
        ([f"{HEADER},accuracy", f"{GOOD},170"], "row 2: accuracy: must be in [0, 1], or in [0, 100] as percent: 170"),
        ([f"{HEADER},accuracy", f"{GOOD},0.5", f"{cells(some(1))},1.7"],
         "row 3: accuracy: must be in [0, 1], like most values of the file: 1.7"),
        (["architecture,accuracy", "conv,0.5"], "row 2: architecture: must be 16 hex digits or JSON: 'conv'"),
        (["architecture,accuracy", "{},0.5"], "row 2: architecture: not an architecture"),
        ([f"{HEADER},accuracy", f"{GOOD},0.5", f"{GOOD},0.6"],
         f"row 3: is the same network as row 2 ({digest(some(0))}), but has different accuracies"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_one_line(lines: list[str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(DataError) as failure:
        read_accuracies(path, SPACE)
    assert str(failure.value).startswith(str(path))
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"stage1.block": "mbconf"},
            "stage1.block: must be one of separable, mbconv: 'mbconf'; did you mean 'mbconv'?",
        ),
        ({"stage1.out_channels": "13"}, "stage1.out_channels: must be one of 12, 16: '13'"),
        ({"stage1.out_channels": ""}, "the choice 'stage1.out_channels' is missing"),
    ],
)
def test_a_value_that_the_space_does_not_offer_is_named(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEADER},accuracy", f"{cells({**some(0), **changed})},0.5")
    with pytest.raises(DataError) as failure:
        read_accuracies(path, SPACE)
    assert str(failure.value).startswith(f"{path}, row 2: ")
    assert message in str(failure.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("x")
    (tmp_path / "result.json").write_text("[1]")
    (tmp_path / "words.json").write_text('{"candidates": ["a"]}')
    (tmp_path / "binary.csv").write_bytes(b"\x00\xff\xfe")
    for name, message in {
        "none.csv": "no such file or folder",
        "table.txt": "a table of accuracies must be .csv, .parquet",
        "result.json": "not the result.json of a search .TypeError",
        "words.json": "not the result.json of a search .AttributeError",
        "binary.csv": "cannot be read as CSV",
        "": "is not a run folder: it has no journal.log",
    }.items():
        with pytest.raises(DataError, match=message):
            read_accuracies(tmp_path / name, SPACE)


@given(st.text(max_size=60), st.text(alphabet="0123456789.,-e\n\"' ", max_size=60))
def test_any_text_is_a_table_or_one_line(tmp_path_factory: pytest.TempPathFactory, header: str, body: str) -> None:
    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_text(f"{header}\n{body}", encoding="utf-8", newline="")
    try:
        read_accuracies(path, SPACE)
    except NasError as error:
        assert str(path) in str(error)


def search_args(space: Path | str, run: Path, *more: str) -> list[str]:
    null = ["--runtime", "null", "--target-latency", "20ms", "--json", "--quiet"]
    return ["search", "--space", str(space), "--run", str(run), *null, *more]


def test_a_run_can_be_searched_again(tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, flags = tmp_path / "first", ["--controller", "random", "--trials", "4"]
    assert main(search_args(tiny_space, first, *flags)) == 0
    told = json.loads(capsys.readouterr().out)
    space = load_space(str(tiny_space)).for_classes(10)
    assert read_accuracies(first, space).rows == read_accuracies(first / "result.json", space).rows
    again = search_args(tiny_space, tmp_path / "again", *flags, "--objective", "pareto", "--accuracies", str(first))
    assert main(again) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["proxy"]["evaluator"] == "tabular"
    assert result["settings"]["proxy"]["architectures"] == 4
    accuracies = [{trial["architecture"]: trial["accuracy"] for trial in run["candidates"]} for run in (told, result)]
    assert accuracies[0] == accuracies[1]


def test_a_trial_that_failed_has_no_accuracy(tmp_path: Path) -> None:
    with open_study(tmp_path / "a", {}, SPACE, ("maximize",)) as study:
        for seed in (0, 1):
            arch = canonical(SPACE.decode(some(seed)))
            if seed:
                record_failure(study, some(seed), arch, "out of memory")
            else:
                record(study, some(seed), arch, Metrics(0.5, 1.0, 1, 1), (0.5,), 1.0)
    assert set(read_accuracies(tmp_path / "a", SPACE).rows) == {digest(some(0))}


@pytest.mark.slow
def test_nas_bench_macro_is_searched(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, table = shared / "bench" / "nas_bench_macro" / "nb_macro.csv", tmp_path / "accuracies.csv"
    assert BENCHMARK["convert"](source, table) == 3969 == BENCHMARK["SPACE"].size
    space = load_space("nb_macro")
    assert len(read_accuracies(table, space).rows) == 3969
    settings = EvaluatorContext(
        Classification.load("digits"), space, tmp_path, source=table, reporter=Reporter(quiet=True)
    )
    evaluator = Tabular(settings)
    best = space.decode(BENCHMARK["choices_of"]("11122211"))
    with source.open() as file:
        row = next(row for row in csv.DictReader(file) if row["arch"] == "11122211")
    for seed, name in enumerate(("acc1", "acc2", "acc3")):
        assert list(evaluator.evaluate(best, seed)) == [float(row[name]) / 100]
    final = ["--final-epochs", "1", "--final-images", "100", "--proxy-resolution", "8", "--proxy-images", "100"]
    flags = ["--accuracies", str(table), "--trials", "16", "--objective", "constrained", *final]
    assert main(search_args("nb_macro", tmp_path / "run", *flags)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] == 16
    assert result["failed"] == []
    rows = read_accuracies(table, space).rows
    for trial in result["candidates"]:
        assert trial["accuracy"] == rows[trial["architecture"]].accuracies[0][0]
    within = [trial["accuracy"] for trial in result["candidates"] if trial["latency_ms"] <= 20]
    assert max(within) == max(trial["accuracy"] for trial in result["finalists"])
