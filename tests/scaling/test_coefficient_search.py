"""`nas scale --search`, whole, on the null runtime: what it finds, continues, refuses and leaves behind."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.cli.main import main
from nas.errors import TableError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.zero_cost import ZeroCost
from nas.networks.network import canonical, totals, trace
from nas.scaling.family_job import measure_networks
from nas.scaling.search_setup import prepare_search
from nas.scaling.settings import make_scale_settings
from nas.spaces.trainings import Proxy
from nas.study.objectives import SOFT
from nas.utils.reporting import Reporter
from tests.helpers.scaled_networks import EVALUATOR, TINY_BASE, ScriptedLatency, evaluator_module

Search = Callable[..., dict[str, Any]]
FAST = ["--runtime", "null", "--step", "0.25", "--divisor", "4", "--tolerance", "0.15", "--phi", "0..1"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The current directory, with a base and an evaluator whose name is new in each test."""
    yield from evaluator_module(tmp_path, {"base.yaml": TINY_BASE}, monkeypatch)


@pytest.fixture
def search(module: str, capsys: pytest.CaptureFixture[str]) -> Search:
    """Run a search by the tests' evaluator and return its result."""

    def run(*flags: str, function: str = "score", compare: int = 0) -> dict[str, Any]:
        own = [] if "--evaluator" in flags or "--accuracies" in flags else ["--evaluator", f"{module}:{function}"]
        argv = ["scale", "base.yaml", "--search", *FAST, *own, "--compare-seeds", str(compare), *flags]
        assert main([*argv, "--json", "--quiet"]) == 0, capsys.readouterr().err
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


@pytest.fixture
def refused(module: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return the one line with which a search is refused."""

    def run(*flags: str) -> str:
        own = [] if "--evaluator" in flags else ["--evaluator", f"{module}:score"]
        assert main(["scale", "base.yaml", "--search", *FAST, *own, *flags, "--quiet"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return run


def notes() -> list[str]:
    path = Path("notes.txt")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def found(result: dict[str, Any]) -> Any:
    """Return what must not depend on when and where a search ran."""
    searched = result["search"]
    each = [(entry["architecture"], entry["accuracy"], entry["latency_ms"]) for entry in searched["candidates"]]
    compared = [(entry["name"], entry["architecture"], entry["accuracies"]) for entry in result["comparison"]]
    family = [(entry["name"], entry["architecture"]) for entry in result["family"]]
    return result["coefficients"], searched["best"], each, searched["failed"], compared, family


def cost(entry: dict[str, Any], resource: str) -> float:
    return float(entry["latency_ms"] if resource == "latency" else entry[resource])


@pytest.mark.parametrize("resource", ["latency", "macs", "activations"])
def test_a_whole_search_finds_the_best_by_hand_and_again_elsewhere(resource: str, search: Search) -> None:
    result = search("--budget", resource, "--run", "a", "--finalist-seeds", "0")
    searched, budget = result["search"], result["search"]["budget"]
    assert budget["resource"] == resource
    assert budget["target"] == 2 * budget["base"]
    assert searched["admissible"] == searched["trials"] == len(searched["candidates"]) > 2
    assert searched["failed"] == []
    scores = {}
    for entry in searched["candidates"]:
        share = cost(entry, resource) / budget["target"]
        assert 0.85 - 1e-9 <= share <= 1.15 + 1e-9
        scores[entry["architecture"]] = entry["accuracy"] * share**SOFT
        assert entry["estimate"] == entry["accuracy"]
    best = max(scores, key=lambda digest: scores[digest])
    assert searched["best"] == best
    (winner,) = [entry for entry in searched["candidates"] if entry["architecture"] == best]
    assert result["coefficients"] == {key: winner[key] for key in ("alpha", "beta", "gamma")}
    assert [entry["name"] for entry in result["family"]] == ["phi 0", "phi 1"]
    assert result["family"][1]["architecture"] == best
    assert result["comparison"] == []
    for name in ("scaling.png", "family.png", "scale.json", "family/phi_1.json"):
        assert (Path("a") / name).stat().st_size > 100
    assert json.loads(Path("a/scale.json").read_text(encoding="utf-8")) == result
    made = notes()
    assert len(made) == 2 * searched["trials"]
    assert search("--budget", resource, "--run", "a", "--finalist-seeds", "0") == result
    assert search("--budget", resource, "--run", "a", "--finalist-seeds", "0", "--trials", "500") == result
    assert notes() == made
    assert found(search("--budget", resource, "--run", "b", "--finalist-seeds", "0")) == found(result)


def test_compared_at_one_latency_continued_and_used(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    few = search("--run", "a", "--trials", "2", compare=1)
    assert few["search"]["trials"] == 2 < few["search"]["admissible"]
    names = [entry["name"] for entry in few["comparison"]]
    assert names[:2] == ["base", "compound"]
    assert set(names[2:]) <= {"depth", "width", "resolution"}
    target_ms = 2 * few["comparison"][0]["latency_ms"]
    for entry in few["comparison"]:
        assert len(entry["accuracies"]) == 1
        assert entry["latency_ms"] <= target_ms
        assert entry["within_5_percent"] == (entry["latency_ms"] >= 0.95 * target_ms) or entry["name"] == "base"
    whole = search("--run", "a", compare=2)
    assert whole["search"]["trials"] == whole["search"]["admissible"]
    before = [entry["architecture"] for entry in few["search"]["candidates"]]
    assert [entry["architecture"] for entry in whole["search"]["candidates"]][:2] == before
    assert all(len(entry["accuracies"]) == 2 for entry in whole["comparison"])
    made = notes()
    assert len(made) == len(set(made))  # nothing began twice with one seed
    assert found(search("--run", "b", compare=2)) == found(whole)

    assert main(["scale", "a", "--phi", "0..1", "--json", "--quiet", "--divisor", "4", "--run", "f"]) == 0
    family = json.loads(capsys.readouterr().out)
    assert family["rule"] == "searched"
    assert family["coefficients"] == whole["coefficients"]
    assert [entry["architecture"] for entry in family["family"]] == [entry["architecture"] for entry in whole["family"]]
    assert main(["scale", "base.yaml", "--search", *FAST, "--evaluator", whole["search"]["settings"]["evaluator"],
                 "--compare-seeds", "2", "--run", "a"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "searched" in told
    assert "compound" in told


def test_other_settings_in_one_folder_are_one_line(search: Search, refused: Callable[..., str]) -> None:
    search("--budget", "macs", "--run", "a", "--trials", "2", "--finalist-seeds", "0")
    held = sorted(path.name for path in Path("a").iterdir())
    for flags, key in (
        (("--budget", "activations"), "budget is 'macs' there and 'activations' now"),
        (("--budget", "macs", "--times", "3"), "give another --run"),
        (("--budget", "macs", "--step", "0.5"), "grid is"),
        (("--budget", "macs", "--seed", "1"), "seed is 0 there and 1 now"),
        (("--budget", "macs", "--proxy-epochs", "2"), "proxy is"),
        (("--budget", "macs", "--threads", "2"), "threads is 1 there and 2 now"),
        (("--budget", "macs", "--objective", "hard"), "objective is 'soft' there and 'hard' now"),
        (("--budget", "macs", "--controller", "random"), "controller is 'exhaustive' there"),
    ):  # fmt: skip
        line = refused("--run", "a", *flags)
        assert "holds another experiment" in line
        assert key in line
    assert sorted(path.name for path in Path("a").iterdir()) == held


def test_what_fails_is_told_and_can_be_tried_again(
    search: Search, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points and compared networks of 20 px and more fail: they have no accuracy, and the rest is as ever."""
    result = search("--budget", "macs", "--run", "a", function="picky", compare=1)
    searched = result["search"]
    assert searched["failed"]
    assert "too many pixels" in searched["failed"][0]["error"]
    assert searched["trials"] + len(searched["failed"]) == searched["admissible"]
    lost = [entry for entry in result["comparison"] if entry["resolution"] >= 20]
    assert lost
    assert all(entry["accuracy"] is None and entry["accuracies"] == [] for entry in lost)
    assert Path("a/scaling.png").stat().st_size > 100
    argv = ["scale", "base.yaml", "--search", *FAST, "--budget", "macs", "--run", "a", "--compare-seeds", "1"]
    assert main([*argv, "--evaluator", f"{module}:picky"]) == 0
    assert "evaluation failed" in capsys.readouterr().out
    path = Path(f"{module}.py")
    path.write_text(EVALUATOR.replace("if arch.resolution >= 20", "if False"), encoding="utf-8")
    sys.modules.pop(module)
    importlib.invalidate_caches()
    again = search("--budget", "macs", "--run", "a", "--retry-failed", function="picky", compare=1)
    assert again["search"]["failed"] == []
    assert again["search"]["trials"] == searched["admissible"]


def test_a_family_that_cannot_be_made_loses_nothing_of_the_search(
    search: Search, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--budget", "latency", "--run", "a")
    early = ["scale", "base.yaml", "--search", *FAST[:-2], *flags, "--evaluator", f"{module}:score", "--quiet"]
    assert main([*early, "--latency", "0.1us"]) == 2
    assert "--latency: is below the latency of the base" in capsys.readouterr().err
    assert not Path("notes.txt").exists()  # told before anything was evaluated
    result = search(*flags, "--phi", "0..90")
    assert [entry["phi"] for entry in result["family"]] == [1.0]
    assert result["family"][0]["architecture"] == result["search"]["best"]
    assert result["family"][0]["latency_ms"] == pytest.approx(
        next(entry["latency_ms"] for entry in result["search"]["candidates"]
             if entry["architecture"] == result["search"]["best"]), rel=0.05
    )  # fmt: skip
    began = Path("notes.txt").read_text(encoding="utf-8")
    assert search(*flags, "--phi", "0..90") == result
    Path("a/scaling.png").unlink()
    again = search(*flags, "--phi", "0..90")
    assert Path("a/scaling.png").is_file()
    assert again["search"] == result["search"]
    assert Path("notes.txt").read_text(encoding="utf-8") == began


def test_a_table_that_does_not_know_the_whole_family_leaves_its_networks(capsys: pytest.CaptureFixture[str]) -> None:
    class Partial(ScriptedLatency):
        def measure(self, archs: Sequence[Architecture]) -> None:
            raise TableError("no row for conv")

    network_latency = Partial(lambda arch: 1.0)
    of_search = make_scale_settings({"network": "base.yaml", "search": True})
    assert measure_networks(network_latency, [], of_search, Reporter()) is None
    assert "no latencies of the family: no row for conv" in capsys.readouterr().err
    of_family = make_scale_settings({"network": "base.yaml", "table": "pixel1"})
    with pytest.raises(TableError, match="no row for conv"):
        measure_networks(network_latency, [], of_family, Reporter())


def test_the_coefficients_that_are_told_promise_what_the_network_grew_by(search: Search) -> None:
    result = search("--budget", "macs", "--run", "a")
    for entry in result["search"]["candidates"]:
        promised = entry["alpha"] * entry["beta"] ** 2 * entry["gamma"] ** 2
        assert promised == pytest.approx(entry["macs"] / result["base"]["macs"], rel=0.35)


def test_another_process_evaluates_alike(search: Search) -> None:
    here = search("--budget", "activations", "--run", "a", compare=2)
    there = search("--budget", "activations", "--run", "b", "--workers", "2", compare=2)
    assert found(there)[:2] == found(here)[:2]  # of several at once, candidates come in another order
    assert sorted(found(there)[2]) == sorted(found(here)[2])
    assert found(there)[3:] == found(here)[3:]
    assert [len(entry["accuracies"]) for entry in there["comparison"]] == len(there["comparison"]) * [2]


def test_by_size_and_by_a_table_of_accuracies(search: Search) -> None:
    by_size = search("--budget", "macs", "--run", "a", "--evaluator", "params")
    candidates = by_size["search"]["candidates"]
    assert by_size["search"]["noise"] is None  # deterministic: nothing is repeated
    by_params, by_accuracy = (sorted(candidates, key=lambda entry: entry[key]) for key in ("params", "accuracy"))
    assert by_params == by_accuracy
    table = ["architecture,accuracy", *(f"{entry['architecture']},{0.5 + 0.01 * number}"
                                        for number, entry in enumerate(candidates))]  # fmt: skip
    Path("table.csv").write_text("\n".join(table), encoding="utf-8")
    flags = ("--budget", "macs", "--accuracies", "table.csv", "--objective", "constrained")
    told = search(*flags, "--run", "b", compare=1)
    assert told["search"]["best"] == candidates[-1]["architecture"]
    rows = {entry["architecture"] for entry in candidates}
    for entry in told["comparison"]:  # networks beside the grid are in no table
        assert bool(entry["accuracies"]) == (entry["architecture"] in rows)


@pytest.mark.parametrize("resource", ["latency", "macs", "activations"])
@pytest.mark.parametrize("evaluator", ["", "params"])
def test_a_budget_that_no_point_meets_is_one_line_and_leaves_the_folder_free(
    resource: str, evaluator: str, refused: Callable[..., str]
) -> None:
    own = ("--evaluator", evaluator) if evaluator else ()
    line = refused("--run", "a", "--budget", resource, "--tolerance", "0.0005", "--step", "0.6", *own)
    assert line.startswith(
        f"nas scale: error: --budget: no grid point is within 0.05% of 2 times the base's {resource}; the nearest"
    )
    assert "use a smaller --step or a larger --tolerance" in line
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--budget memory", "--budget: unknown budget 'memory'"),
        ("--objective pareto", "--objective: unknown objective 'pareto'; known: constrained, hard, soft"),
        ("--controller surogate", "--controller: unknown controller 'surogate'; did you mean 'surrogate'?"),
        ("--evaluator nonesuch", "--evaluator: unknown evaluator 'nonesuch'"),
        ("--evaluator supernet", "--evaluator: needs a search space; it cannot evaluate scaled networks: 'supernet'"),
        ("--evaluator tabular", "--evaluator: needs --accuracies FILE: 'tabular'"),
        ("--evaluator {module}:Unmade", "--evaluator: cannot be instantiated (OSError: no weights"),
        ("--runtime nonesuch", "unknown runtime 'nonesuch'"),
        ("--preset nonesuch", "--preset: unknown preset 'nonesuch'"),
        ("--data nonesuch", "nonesuch"),
        ("--times 1", "--times: must be above 1 and below 1000: 1"),
        ("--times nan", "--times: must be above 1 and below 1000: nan"),
        ("--step 0", "--step: must be above zero: 0"),
        ("--step 1e-12", "--step: makes over 20,000 points up to 2 times"),
        ("--step 9", "--step: is larger than the allowed growth: 9"),
        ("--tolerance 0", "--tolerance: must be between 0 and 1: 0"),
        ("--tolerance 1", "--tolerance: must be between 0 and 1: 1"),
        ("--exponent 0.5", "--exponent: must be in [-10, 0]: 0.5"),
        ("--objective hard --exponent -0.1", "--exponent: applies only to the objective 'soft', not to 'hard': -0.1"),
        ("--seed -1", "--seed: must be at least 0: -1"),
        ("--trials -1", "--trials: must be at least 0: -1"),
        ("--threads 0", "--threads: must be at least 1: 0"),
        ("--compare-seeds -1", "--compare-seeds: must be at least 0: -1"),
        ("--finalists 1", "--finalists: must be at least 2: 1"),
        ("--proxy-images -5", "--proxy-images: must be at least 0: -5"),
        ("--trial-timeout soon", "--trial-timeout"),
        ("--coefficients 1.2,1.1,1.1", "--coefficients: cannot be combined with --search"),
        ("--latency 5ms", "--latency: cannot be combined with --phi"),
        ("--phi 3..1", "--phi: the first phi must not be above the last: '3..1'"),
        ("--divisor 0", "--divisor: must be a whole number of at least 1: 0"),
        ("--times 1.01 --step 0.004", "--step: every grid point rounds to the base network"),
        ("--device ftp://x", "--device"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured_or_written(
    flags: str, message: str, module: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.scaling.network_latency.time_networks", lambda *_: pytest.fail("measures first"))
    if "1.01" in flags:
        Path("base.yaml").write_text(
            "resolution: 16\nstages: [{block: conv, out_channels: 8}]\nhead: {block: classifier}\n", encoding="utf-8"
        )
    line = refused("--run", "a", *flags.format(module=module).split())
    assert message in line
    assert not Path("a").exists()


def make_search(module: str, **more: Any) -> Any:
    given = {"network": "base.yaml", "search": True, "runtime": "null", "run": "a", "step": 0.5, **more}
    return prepare_search(make_scale_settings(given), Reporter(quiet=True))


def test_candidates_train_at_their_own_resolution(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the share of it that the proxy's is of the base's: 8 of 16 px, so 12 of 24."""
    prepared = make_search(module, proxy_resolution=8, proxy_epochs=1, proxy_images=40)
    assert prepared.grid.proxy == Proxy(8, 1, 40, of=16)
    seen: list[Any] = []

    def train(model: Any, task: Any, images: Any, validation: Any, recipe: Any, seed: int, **_: Any) -> Any:
        seen.append((images[0][0].shape[-1], images.resolution, validation.resolution, len(images)))
        yield 0.5

    monkeypatch.setattr("nas.evaluators.proxy_training.train", train)
    evaluator = ProxyTraining(EvaluatorContext(prepared.task, prepared.grid, Path("a")))
    for size in (16, 24, 20, 32, 28, 16, 24):
        assert list(evaluator.evaluate(prepared.base.at(size), 0)) == [0.5]
    assert seen == [(half, half, half, 40) for half in (8, 12, 10, 16, 14, 8, 12)]
    assert evaluator.longer(2)._recipe.epochs == 2


def test_it_really_trains_and_scores_at_that_resolution(module: str) -> None:
    prepared = make_search(module, proxy_resolution=8, proxy_epochs=1, proxy_images=40)
    larger = next(point for point in prepared.distinct_points if point.architecture.resolution == 24)
    (accuracy,) = ProxyTraining(EvaluatorContext(prepared.task, prepared.grid, Path("a"))).evaluate(
        larger.architecture, 0
    )
    assert 0 <= accuracy <= 1
    scores = ZeroCost(
        "params", EvaluatorContext(prepared.task, prepared.grid, Path("a"), reporter=Reporter(quiet=True))
    )
    list(scores.evaluate(larger.architecture, 0))
    assert {size: batch.images.shape[-1] for size, batch in scores._batches.items()} == {8: 8, 12: 12}


def test_the_search__tells_base_and_points(module: str) -> None:
    prepared = make_search(module)
    assert prepared.base_point.architecture == canonical(prepared.base)
    assert prepared.base_point.macs == totals(trace(prepared.base)).macs
    digests = [point.architecture.digest for point in prepared.distinct_points]
    assert len(digests) == len(set(digests))
    assert prepared.base_point.architecture.digest not in digests
    assert prepared.base.head.kwargs["num_classes"] == 10
