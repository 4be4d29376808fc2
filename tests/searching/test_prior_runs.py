"""Searches that begin with earlier work: what counts here as it is, what is evaluated again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.cli.main import main
from nas.controllers.base import Problem
from nas.controllers.random import RandomController
from nas.errors import NasError, RunError, UsageError
from nas.networks.network import canonical, totals, trace
from nas.searching import prior_runs
from nas.searching.early_stopping import make_rungs
from nas.searching.job import with_prior
from nas.searching.loop import SearchPlan, search
from nas.searching.prior_runs import PriorKnowledge, make_prior_knowledge, prior_identity, read_sources
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Space
from nas.spaces.yaml_files import read_yaml
from nas.spaces.yaml_format import load_architecture, load_space, parse_space
from nas.study.objectives import Metrics, make_objective
from nas.study.ranking import front
from nas.study.study import JOURNAL, Trial, open_study
from nas.utils.reporting import Reporter
from tests.helpers.trials import record, record_failure

DATA: dict[str, Any] = {
    "resolution": 32,
    "stages": [
        {"block": "conv", "out_channels": [8, 12], "stride": 2},
        {"block": ["conv", "separable"], "depth": [1, 2], "out_channels": [12, 16, 24], "kernel_size": [3, 5]},
    ],
    "head": {"block": "classifier"},
}
SPACE: Space = parse_space("tiny", DATA, "tiny.yaml").for_classes(10)
SETTINGS = {"space_digest": SPACE.digest, "data": "digits", "train_images": 9, "evaluator": "proxy_training", "seed": 1}
NETWORK = """
resolution: 64
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: separable, depth: 2, out_channels: 16}
head: {block: classifier, num_classes: 77}
"""


class Scripted:
    """Gives each network the accuracy of a function of its digest."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, accuracy: Callable[[float], float]):
        self.accuracy = accuracy

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        yield self.accuracy(int(arch.digest[:4], 16) / 2**16)


def predict(arch: Architecture) -> float:
    return totals(trace(arch)).macs / 1e5


def searched(
    folder: Path, start: PriorKnowledge | None = None, objective: str = "soft", target_ms: float = 1.0,
    accuracy: Callable[[float], float] = lambda known: known, **changed: Any,
) -> list[Trial]:  # fmt: skip
    """Return the trials of a search of six candidates in `folder`."""
    settings, goal, reporter = {**SETTINGS, **changed}, make_objective(objective, target_ms), Reporter(quiet=True)
    problem = Problem(encode_space(SPACE, lambda layer: layer.macs / 1e5), goal)
    with open_study(folder, settings, SPACE, goal.directions) as study:
        start = start or PriorKnowledge()
        controller = with_prior(RandomController(problem), start, study)
        rungs = make_rungs("full", 2, 1, 1)
        plan = SearchPlan(SPACE, controller, Scripted(accuracy), goal, predict, rungs, start.digests)
        search(plan, study, 6, settings["seed"], reporter)
        return study.evaluated


def begun(name: Path | str, objective: str = "soft", target_ms: float = 1.0, **changed: Any) -> PriorKnowledge:
    sources = read_sources([str(name)], SPACE, {**SETTINGS, **changed}, Path("runs/other"))
    return make_prior_knowledge(sources, make_objective(objective, target_ms), predict, Reporter())


def digests(trials: list[Trial]) -> list[str]:
    return [trial.architecture.digest for trial in trials]


@pytest.fixture
def first(tmp_path: Path) -> list[Trial]:
    """The trials of an earlier run in "a"."""
    return searched(tmp_path / "a")


def test_trials_of_the_same_evaluation_are_known_and_never_tried_again(
    first: list[Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Trial] = []
    monkeypatch.setattr("nas.controllers.random.RandomController.tell", lambda self, ended: told.append(ended))
    start = begun(tmp_path / "a", seed=7)  # two seeds of a training are two of one kind
    assert "6 candidates are known" in capsys.readouterr().err
    assert start.first == {}
    again = searched(tmp_path / "b", start)  # the same seed: it would ask for the same
    assert len(again) == 6
    assert not set(digests(again)) & set(digests(first))
    assert [(ended.metrics, ended.values) for ended in told[:6]] == [(trial.metrics, trial.values) for trial in first]
    assert len(told) == 12


def test_a_run_of_another_task_is_refused(first: list[Trial], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        begun(tmp_path / "a", task="detection", metric="AP")
    assert refused.value.where == f"--start-from {tmp_path / 'a'}"
    assert refused.value.rule == "is a run of classification: this search is one of detection"
    searched(tmp_path / "b", task="detection", metric="AP")
    with pytest.raises(UsageError, match="is a run of detection: this search is one of classification"):
        begun(tmp_path / "b")
    assert len(begun(tmp_path / "b", task="detection", metric="AP").trials) == 6
    assert begun(tmp_path / "b", task="detection", metric="AP50").trials == ()


@pytest.mark.parametrize(
    "changed",
    [{"data": "cifar10"}, {"space_digest": "0"}, {"source": "a.csv"}, {"evaluator": "synflow"}, {"train_images": 8}],
)
def test_of_another_evaluation_the_front_is_evaluated_again_first(
    changed: dict[str, Any], first: list[Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = begun(tmp_path / "a", **changed)
    expected = {first[index].architecture.digest for index in front([trial.metrics for trial in first])}
    assert (start.trials, start.digests, set(start.first)) == ((), frozenset(), expected)
    assert "tried first: " in capsys.readouterr().err
    again = searched(tmp_path / "b", start, accuracy=lambda known: known / 2, **changed)
    assert set(digests(again)[: len(expected)]) == expected
    assert all(trial.metrics.accuracy == int(trial.architecture.digest[:4], 16) / 2**17 for trial in again)


def test_weights_that_are_shared_by_the_seed_are_no_same_evaluation(tmp_path: Path) -> None:
    searched(tmp_path / "a", evaluator="supernet")
    assert len(begun(tmp_path / "a", evaluator="supernet").trials) == 6
    assert not begun(tmp_path / "a", evaluator="supernet", seed=2).trials


def test_what_is_beyond_the_target_is_left_out_of_a_constrained_search(
    first: list[Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = sorted(trial.metrics.latency_ms for trial in first)[2]
    start = begun(tmp_path / "a", "constrained", limit)
    within = {trial.architecture.digest for trial in first if trial.metrics.latency_ms <= limit}
    assert start.digests == within
    assert (
        f"{len(within)} candidates are known; {6 - len(within)} beyond the target left out" in capsys.readouterr().err
    )
    again = searched(tmp_path / "b", start, "constrained", limit)
    assert all(trial.metrics.latency_ms <= limit for trial in again)
    assert not set(digests(again)) & within


def test_a_network_that_the_space_holds_is_tried_first_at_its_own_resolution_and_classes(tmp_path: Path) -> None:
    path = tmp_path / "known.yaml"
    path.write_text(NETWORK, encoding="utf-8")
    (source,) = read_sources([str(path)], SPACE, SETTINGS, tmp_path / "a")
    (held,) = source.networks
    assert (held.architecture.resolution, held.architecture.head.kwargs["num_classes"]) == (32, 10)
    assert held.architecture.stages == canonical(load_architecture(str(path)).at(32)).stages
    assert digests(searched(tmp_path / "a", begun(path)))[0] == held.architecture.digest
    before = prior_identity([source])
    path.write_text(NETWORK.replace("depth: 2", "depth: 1"), encoding="utf-8")
    after = prior_identity(read_sources([str(path)], SPACE, SETTINGS, tmp_path / "a"))
    assert before["start_from"] == after["start_from"] == [str(path)]
    assert before["start_from_digest"] != after["start_from_digest"]
    assert prior_identity([]) == {}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{tmp}/run", "--start-from {tmp}/run: is the folder of this run itself"),
        ("{tmp}/empty", "--start-from {tmp}/empty: is not a run folder: it has no journal.log"),
        ("{tmp}/broken", "--start-from {tmp}/broken/journal.log: cannot be read as a journal: "),
        ("{tmp}/odd", "--start-from {tmp}/odd: trial 0 cannot be read: "),
        (
            "mobilenet_v2_1",
            "--start-from mobilenet_v2_1: unknown network 'mobilenet_v2_1'; did you mean",
        ),
        ("mnasnet", "mnasnet: a space with 49 choices, not one network"),
        ("mobilenet_v2_1.0", "--start-from mobilenet_v2_1.0: tiny: has 2 stages, this network 8"),
        ("{tmp}/wide.yaml", "--start-from {tmp}/wide.yaml: tiny, stage 1: cannot have separable(out_channels=32)"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(start: str, message: str, tmp_path: Path) -> None:
    for name, text in (("run", None), ("empty", None), ("broken", "{}\n[]\n"), ("odd", odd_journal())):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / JOURNAL).write_text(text, encoding="utf-8")
    (tmp_path / "wide.yaml").write_text(NETWORK.replace("depth: 2, out_channels: 16", "out_channels: 32"))
    with pytest.raises(NasError) as failure:
        read_sources([start.format(tmp=tmp_path)], SPACE, SETTINGS, tmp_path / "run")
    assert message.format(tmp=tmp_path) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_run_that_is_kept_in_a_database_is_read_and_withdrawn_trials_are_left_out(tmp_path: Path) -> None:
    folder, url = tmp_path / "kept", f"sqlite:///{tmp_path / 'trials.db'}"
    domain = encode_space(SPACE, lambda layer: 1.0)
    known = [domain.decode(row) for row in list(domain.all_rows())[:3]]
    archs = [canonical(SPACE.decode(choices)) for choices in known]
    with open_study(folder, SETTINGS, SPACE, ("maximize",), url) as study:
        for choices, arch in zip(known[:2], archs, strict=False):
            record(study, choices, arch, Metrics(0.5, 1.0, 10, 20), (0.5,), 0.1)
        claim = study.claim(known[2], archs[2].digest)
        assert claim is not None
        study._store.mark(claim.number, "metrics", Metrics(0.9, 1.0, 10, 20).to_dict())
        study._withdraw(claim)
    (source,) = read_sources([str(folder)], SPACE, SETTINGS, tmp_path / "run")
    assert source.same
    assert [held.architecture for held in source.networks] == archs[:2]
    (tmp_path / "trials.db").unlink()
    with pytest.raises(RunError, match=r"^--start-from .*trials\.db"):
        read_sources([str(folder)], SPACE, SETTINGS, tmp_path / "run")


def test_a_run_of_which_nothing_was_finished_starts_nothing(tmp_path: Path) -> None:
    with open_study(tmp_path / "a", SETTINGS, SPACE, ("maximize",)) as study:
        record_failure(study, {}, load_architecture("mnasnet_small"), "no memory")
    with pytest.raises(NasError, match="a: no trial of this run is complete"):
        begun(tmp_path / "a")
    with pytest.raises(RunError, match="cannot be read"):
        (tmp_path / "a" / JOURNAL).write_bytes(b"\xff\xfe{}\n{}\n")
        begun(tmp_path / "a")


def test_the_command_starts_from_a_network_and_from_its_own_earlier_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    without_winner: None,
    write_accuracies: Callable[[Path, Space], None],
) -> None:
    write_accuracies(tmp_path / "table.csv", SPACE)
    (tmp_path / "tiny.yaml").write_text(json.dumps({**DATA, "proxy": {"resolution": 8}}), encoding="utf-8")
    (tmp_path / "known.yaml").write_text(NETWORK, encoding="utf-8")
    assert read_yaml(tmp_path / "tiny.yaml")["resolution"] == 32

    def run(folder: str, *starts: str) -> tuple[Any, str]:
        flags = ["--space", str(tmp_path / "tiny.yaml"), "--accuracies", str(tmp_path / "table.csv"), "--json"]
        flags += ["--runtime", "null", "--target-latency", "20ms", "--trials", "5", "--controller", "evolution"]
        for name in starts:
            flags += ["--start-from", str(tmp_path / name)]
        status = main(["search", "--run", str(tmp_path / folder), *flags])
        out, err = capsys.readouterr()
        assert status == (0 if out else 2), err
        return (json.loads(out) if out else None), err

    one, _ = run("a", "known.yaml")
    assert one["candidates"][0]["architecture"] == next(iter(begun(tmp_path / "known.yaml").first))
    two, err = run("b", "a", "known.yaml")
    assert "5 candidates are known" in err
    tried = [{each["architecture"] for each in result["candidates"]} for result in (one, two)]
    assert len(tried[0] | tried[1]) == 10
    _, err = run("b", "known.yaml")
    assert "b: holds another experiment: start_from is " in err
    _, err = run("c", "b", "c.yaml")
    assert not (tmp_path / "c").exists()


def odd_journal() -> str:
    """Return the journal of a study with one trial whose architecture is none."""
    trial = {"digest": "0" * 16, "architecture": {"stages": 3}, "metrics": {"accuracy": 0.5}}
    common = {"worker_id": "w"}
    lines = [
        {"op_code": 0, **common, "study_name": "nas", "directions": [2]},
        {"op_code": 4, **common, "study_id": 0, "datetime_start": "2026-01-01T00:00:00", "state": 1, "value": 0.5,
         "values": None, "datetime_complete": "2026-01-01T00:00:01", "distributions": {}, "params": {},
         "user_attrs": trial, "system_attrs": {}, "intermediate_values": {}},
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_accuracies_of_another_precision_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("mobile").for_classes(10)
    choices = {key: values[0] for key, values in space.choices.items()}
    trial = {"number": 0, "choices": choices, "metrics": {"accuracy": 0.5}}
    monkeypatch.setattr(prior_runs, "_read_store", lambda name: ({"runtime": "onnxruntime"}, [trial]))
    same = {
        runtime: prior_runs._read_run("other", space, {"runtime": runtime}).same
        for runtime in ("onnxruntime", "openvino", "onnxruntime_int8")
    }
    assert same == {"onnxruntime": True, "openvino": True, "onnxruntime_int8": False}
