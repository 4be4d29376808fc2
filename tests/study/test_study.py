from __future__ import annotations

import json
import random
from contextlib import AbstractContextManager
from pathlib import Path

import optuna
import pytest

from nas.architecture import Scalar
from nas.errors import RunError
from nas.networks.network import canonical
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import Metrics
from nas.study.process_liveness import Participants
from nas.study.study import JOURNAL, Study, Trial, check_run, open_study, read_trials
from nas.study.trial_ownership import Claim
from tests.helpers.trials import record_failure

SPACE: Space = load_space("mobile")
SETTINGS = {"space": "mobile", "target_latency_ms": 20.0, "seed": 1}


def fill(folder: Path, seeds: range) -> list[str]:
    with open_study(folder, SETTINGS, SPACE, ("maximize",)) as study:
        for seed in seeds:
            choices = SPACE.sample(random.Random(seed))
            arch = canonical(SPACE.decode(choices))
            lost = [claim for claim in study.stale() if claim.digest == arch.digest]
            claim = study.claim_again(lost[0]) if lost else study.claim(choices, arch.digest)
            assert claim is not None
            assert study.end(claim, Metrics(seed / 100, 1.5, 10, 20), (seed / 100,), 0.5)
        return [trial.architecture.digest for trial in study.trials]


def test_trials_are_read_back_as_they_were_recorded(tmp_path: Path) -> None:
    written = fill(tmp_path / "run", range(3))
    with open_study(tmp_path / "run", SETTINGS, SPACE, ("maximize",)) as study:
        assert [trial.architecture.digest for trial in study.trials] == written
        assert study.trials[2].metrics == Metrics(0.02, 1.5, 10, 20)
        assert study.trials[2].choices == SPACE.sample(random.Random(2))
        assert study.trials[2].number == 2
        assert study.digests == set(written)


def test_a_failed_trial_is_kept_with_its_reason(tmp_path: Path) -> None:
    choices = SPACE.sample(random.Random(0))
    arch = canonical(SPACE.decode(choices))
    with open_study(tmp_path, SETTINGS, SPACE, ("maximize",)) as study:
        record_failure(study, choices, arch, "the loss is nan in epoch 0")
    with open_study(tmp_path, SETTINGS, SPACE, ("maximize",)) as study:
        assert [(trial.digest, trial.error) for trial in study.failed] == [(arch.digest, "the loss is nan in epoch 0")]
        assert study.trials == []
        assert study.count == 1


def test_a_journal_cut_anywhere_keeps_whole_trials_and_goes_on(tmp_path: Path) -> None:
    fill(tmp_path / "whole", range(4))
    content = (tmp_path / "whole" / JOURNAL).read_bytes()
    first = len(content) // 2
    for cut in range(first, len(content), max(1, (len(content) - first) // 12)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(content[:cut])
        with open_study(folder, SETTINGS, SPACE, ("maximize",)) as study:
            kept = len(study.trials)
        digests = fill(folder, range(kept, 4))
        assert digests == fill(tmp_path / "whole", range(0))


def test_the_journal_is_a_plain_optuna_study(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    study = optuna.load_study(study_name="nas", storage=optuna.storages.JournalStorage(backend))
    assert study.best_value == 0.01
    assert study.user_attrs["settings"] == SETTINGS


def test_a_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "run", range(1))
    other = {**SETTINGS, "target_latency_ms": 30.0}
    with pytest.raises(RunError, match=r"another experiment: target_latency_ms is 20.0 there and 30.0 now"):
        check_run(tmp_path / "run", other)
    with pytest.raises(RunError, match="another experiment"), open_study(tmp_path / "run", other, SPACE, ("maximize",)):
        pass
    check_run(tmp_path / "run", SETTINGS)
    check_run(tmp_path / "new", SETTINGS)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not a run folder"):
        check_run(tmp_path, SETTINGS)


def opened(folder: Path) -> AbstractContextManager[Study]:
    return open_study(folder, SETTINGS, SPACE, ("maximize",))


def some(seed: int) -> tuple[dict[str, Scalar], str]:
    choices = SPACE.sample(random.Random(seed))
    return choices, canonical(SPACE.decode(choices)).digest


def end(study: Study, claim: Claim | None, accuracy: float = 0.5) -> Trial | None:
    assert claim is not None
    return study.end(claim, Metrics(accuracy, 1.5, 10, 20), (accuracy,), 0.5)


def test_of_two_on_one_study_the_lower_claim_has_the_candidate(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        first = one.claim(*some(0))
        assert other.claim(*some(0)) is None
        assert other.digests == {some(0)[1]}
        assert other.pending == [some(0)[0]]
        assert other.stale() == []
        second = other.claim(*some(1), trials=2)
        assert one.claim(*some(2), trials=2) is None, "two are claimed"
        assert one.is_awaited(2)
        end(other, second, 0.7)
        end(one, first)
        other.refresh()
        assert [trial.number for trial in other.evaluated] == [0, 1]
        assert [trial.number for trial in other.ended] == [1, 0]
        one.refresh()
        assert other.evaluated == one.evaluated
        assert not one.is_awaited(2)


def test_what_a_process_leaves_in_order_is_no_death(tmp_path: Path) -> None:
    for _ in range(4):
        with opened(tmp_path) as study:
            claim = study.claim_again(study.stale()[0]) if study.claimed else study.claim(*some(0))
            assert claim is not None
            assert claim.attempt == 1
    assert not (tmp_path / "workers").exists()
    with opened(tmp_path) as study:
        assert study.claimed == 1
        assert study.count == 0


def test_who_is_on_another_machine_is_dead_when_it_was_silent_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, beats = [0.0], {"far": 0}
    monkeypatch.setattr("nas.study.process_liveness.time.monotonic", lambda: now[0])
    workers = Participants(tmp_path)
    assert not workers.is_alive("far"), "all workers of a journal share its folder"
    told: dict[str, int] = {}
    workers.start_heartbeat(told.__setitem__, beats.get)
    assert told == {workers.me: 0}
    assert workers.is_alive("far")
    now[0] += 119
    assert workers.is_alive("far")
    beats["far"] += 1
    now[0] += 119
    assert workers.is_alive("far")
    now[0] += 121
    assert not workers.is_alive("far")
    workers.close()


def test_one_taken_for_dead_that_comes_back_does_not_count_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    with (
        open_study(tmp_path / "a" / "run", SETTINGS, SPACE, ("maximize",), url) as one,
        open_study(tmp_path / "b" / "run", SETTINGS, SPACE, ("maximize",), url) as other,
    ):
        lost = one.claim(*some(0))
        other.refresh()
        assert other.stale() == [], "it beats"
        other._workers._last[one._workers.me] = (0, -1e9)
        (stale,) = other.stale()
        again = other.claim_again(stale)
        assert again is not None
        assert again.attempt == 2
        assert end(one, lost, 0.9) is None
        assert end(other, again, 0.5) is not None
        one.refresh()
        assert [trial.metrics.accuracy for trial in one.evaluated] == [0.5]
        assert one.claimed == 1


def test_one_taken_for_dead_that_ends_first_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        claim = one.claim(*some(0))
        other.refresh()
        (seen,) = other._running()
        end(one, claim, 0.9)
        assert other.claim_again(seen) is None
        assert [trial.metrics.accuracy for trial in other.evaluated] == [0.9]


def test_a_retry_that_works_replaces_the_failure_in_every_view(tmp_path: Path) -> None:
    with opened(tmp_path) as study:
        for seed in range(3):
            claim = study.claim(*some(seed))
            assert claim is not None
            if seed == 1:
                assert study.fail(claim, "out of memory")
            else:
                end(study, claim)
        (failed,) = study.failed_claims()
        again = study.claim_again(failed)
        assert [(trial.digest, trial.error) for trial in study.failed] == [(some(1)[1], "out of memory")]
        end(study, again, 0.8)
        assert not study.failed
        assert not study.failed_claims()
    with opened(tmp_path) as study:
        assert study.count == study.claimed == 3
        assert [trial.metrics.accuracy for trial in study.evaluated] == [0.5, 0.8, 0.5]
        assert [trial.number for trial in study.evaluated] == [0, 1, 2]
    assert [trial.digest for trial in read_trials(tmp_path, SPACE)] == [some(seed)[1] for seed in range(3)]


def test_a_journal_from_before_there_were_claims_is_read(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    journal = tmp_path / JOURNAL
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    old = [line for line in lines if line["op_code"] in (0, 2)]
    choices, digest = some(7)
    arch = canonical(SPACE.decode(choices))
    attributes = {"digest": digest, "architecture": arch.to_dict(), "duration_s": 0.5, "curve": [0.25],
                  "metrics": Metrics(0.25, 1.5, 10, 20).to_dict()}  # fmt: skip
    journal.write_text("".join(json.dumps(line) + "\n" for line in old))
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(study_name="nas", storage=optuna.storages.JournalStorage(backend))
    known = {key: optuna.distributions.CategoricalDistribution(SPACE.choices[key]) for key in choices}
    study.add_trial(optuna.trial.create_trial(params=choices, distributions=known, value=0.25, user_attrs=attributes))
    (trial,) = read_trials(tmp_path, SPACE)
    assert trial.architecture == arch
    with opened(tmp_path) as again:
        assert again.evaluated == [trial]
        end(again, again.claim(*some(8)))
        assert again.count == 2


def test_a_result_that_arrives_after_another_process_failed_the_candidate_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        assert end(one, one.claim(*some(1)), 0.77) is not None
        late = one.claim(*some(0))
        other.refresh()
        (seen,) = other._running()
        assert other.fail(seen, "its process died 3 times")
        assert end(one, late, 0.5) is None
        assert [(trial.digest, trial.error) for trial in one.failed] == [(some(0)[1], "its process died 3 times")]
        assert [trial.metrics.accuracy for trial in one.evaluated] == [0.77]
        assert one.ended_here == 1


def test_a_failure_that_arrives_after_another_process_ended_the_candidate_does_not_count(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        late = one.claim(*some(0))
        assert late is not None
        other.refresh()
        (seen,) = other._running()
        assert end(other, seen, 0.5) is not None
        assert not one.fail(late, "out of memory")
        assert one.failed == []
