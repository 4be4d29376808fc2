from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest

from nas.errors import RunError
from nas.network import canonical
from nas.objective import Metrics
from nas.space import Space
from nas.space_file import load_space
from nas.study import JOURNAL, check_run, open_study

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
        study.record_failure(choices, arch, "the loss is nan in epoch 0")
    with open_study(tmp_path, SETTINGS, SPACE, ("maximize",)) as study:
        assert study.failed == [(arch.digest, "the loss is nan in epoch 0")]
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
