"""Where studies are kept: what Optuna and its dashboard read there, and every way in which a storage can be wrong."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.cli.main import main
from nas.errors import RunError
from nas.networks.network import canonical
from nas.spaces.yaml_format import load_space
from nas.study.objectives import Metrics
from nas.study.storage import CARD, JOURNAL, JournalLock, absolute, check_run, masked, open_storage
from nas.study.study import Study, open_study, read_trials
from nas.utils.files import write_json
from tests.helpers.nas_process import start_nas
from tests.helpers.postgres_server import server
from tests.helpers.trials import record, record_failure
from tests.searching.test_kill import check_shared, killed

pytestmark = pytest.mark.usefixtures("warm_cache")

SPACE = load_space("mobile")
SETTINGS = {"space": "mobile", "seed": 1}


def fill(study: Study, seeds: range) -> None:
    for seed in seeds:
        choices = SPACE.sample(random.Random(seed))
        arch = canonical(SPACE.decode(choices))
        if seed % 4 == 3:
            record_failure(study, choices, arch, "out of memory")
        else:
            record(study, choices, arch, Metrics(seed / 100, 1.5, 10, 20), (seed / 100,), 0.5, (0.0, seed / 100))


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'trials.db'}"


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_optuna_and_its_dashboard_read_every_study(kind: str, tmp_path: Path) -> None:
    folder, url = tmp_path / "run", url_of(tmp_path) if kind == "sqlite" else None
    with open_study(folder, SETTINGS, SPACE, ("maximize",), url) as study:
        fill(study, range(5))
        lost = study.claim(SPACE.sample(random.Random(9)), "0" * 16)
        assert lost is not None
        study._withdraw(lost)
    storage: Any = url
    if url is None:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.study_name == ("run" if url else "nas")
    assert summary.user_attrs["settings"] == SETTINGS
    read = optuna.load_study(study_name=summary.study_name, storage=storage)
    assert [trial.number for trial in read.trials] == list(range(6))
    assert [trial.state.name for trial in read.trials] == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE", "FAIL"]
    assert read.trials[2].values == [0.02]
    assert read.trials[2].params == SPACE.sample(random.Random(2))
    assert read.trials[3].user_attrs["error"] == "out of memory"
    assert read.best_trial.number == 4
    for trial in read.trials:
        json.dumps(trial.user_attrs, allow_nan=False)
    assert [trial.metrics.accuracy for trial in read_trials(folder, SPACE)] == [0.0, 0.01, 0.02, 0.04]
    with open_study(folder, SETTINGS, SPACE, ("maximize",), url) as study:
        assert study.count == study.claimed == 5
        assert [trial.curve for trial in study.trials][1] == (0.0, 0.01)
        assert study.trials[3].architecture.digest == study.trials[3].digest


def test_a_run_is_where_it_was_begun(tmp_path: Path) -> None:
    kept, own = tmp_path / "kept", tmp_path / "own"
    with open_study(kept, SETTINGS, SPACE, ("maximize",), url_of(tmp_path)) as study:
        fill(study, range(1))
    with open_study(own, SETTINGS, SPACE, ("maximize",)) as study:
        fill(study, range(1))
    check_run(kept, SETTINGS, url_of(tmp_path))
    for folder, url, message in (
        (kept, None, "its trials are in --storage 'sqlite:///"),
        (kept, "sqlite:///other.db", "trials.db', not 'sqlite:///other.db'"),
        (own, url_of(tmp_path), f"its trials are in its {JOURNAL}: leave out --storage"),
    ):
        with pytest.raises(RunError, match=message):
            check_run(folder, SETTINGS, url)
    other = {**SETTINGS, "seed": 2}
    with pytest.raises(RunError, match="another experiment: seed is 1 there and 2 now"):
        check_run(kept, other, url_of(tmp_path))
    elsewhere = tmp_path / "elsewhere" / "kept"
    with (
        pytest.raises(RunError, match=r"study 'kept': holds another experiment: seed is 1 there and 2 now"),
        open_study(elsewhere, other, SPACE, ("maximize",), url_of(tmp_path)),
    ):
        pass


def test_a_study_that_no_search_made_is_refused(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="run", storage=url_of(tmp_path))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with (
        pytest.raises(RunError, match="study 'run': was not made by a search"),
        open_study(tmp_path / "run", SETTINGS, SPACE, ("maximize",), url_of(tmp_path)),
    ):
        pass


def text_file(path: Path) -> None:
    path.write_text("no database, only many words\n" * 99)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("create table customers (name text)")


def newer(path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{path}")
    with sqlite3.connect(path) as base:
        base.execute("update alembic_version set version_num = 'v99.0.0.a'")


@pytest.mark.parametrize(
    ("spoil", "url", "message"),
    [
        (None, "runs.db", "--storage: must be a URL such as 'sqlite:///runs.db'"),
        (None, "sqlite:////no/such/folder/runs.db", "cannot be reached: unable to open database file"),
        (None, "sqlight:///runs.db", "SQLAlchemy knows no such database"),
        (None, "postgresql+pg8000://u:secret@localhost/x", "needs a driver: pip install pg8000"),
        (None, "postgresql+psycopg2://u:secret@127.0.0.1:9/x", "cannot be reached"),
        (text_file, "sqlite:///{}", "is not an Optuna storage: file is not a database"),
        (foreign, "sqlite:///{}", "is not an Optuna storage: it has a table 'customers'"),
        (newer, "sqlite:///{}", "has the schema of another Optuna"),
    ],
)
def test_a_storage_that_is_wrong_is_one_line(
    spoil: Any, url: str, message: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "psycopg2" in url:
        pytest.importorskip("psycopg2", reason="needs the extra 'postgresql'")
    path, run = tmp_path / "runs.db", tmp_path / "run"
    if spoil:
        spoil(path)
    flags = ["--runtime", "null", "--target-latency", "1s", "--quiet", "--storage", url.format(path)]
    assert main(["search", "--space", str(tiny_space), "--run", str(run), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert "secret" not in captured.err
    assert not run.exists()


def test_a_relative_database_is_read_from_every_directory_and_never_made_by_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    run, url = tmp_path / "run", "sqlite:///runs.db"
    with open_study(run, SETTINGS, SPACE, ("maximize",), url) as study:
        fill(study, range(1))
    assert json.loads((run / CARD).read_text())["storage"] == f"sqlite:///{tmp_path}/runs.db"
    check_run(run, SETTINGS, url)
    monkeypatch.chdir(tmp_path / "there")
    assert len(read_trials(run, SPACE)) == 1
    with pytest.raises(RunError, match="its trials are in --storage"):
        check_run(run, SETTINGS, url)
    monkeypatch.chdir(tmp_path)
    Path("runs.db").unlink()
    with pytest.raises(RunError, match=r"/run: its trials are in --storage 'sqlite:///.*/runs\.db': no such file"):
        read_trials(run, SPACE)
    assert not Path("runs.db").exists()
    write_json(run / CARD, {**json.loads((run / CARD).read_text()), "storage": url})  # of before paths were absolute
    with pytest.raises(RunError, match="no such file"):
        read_trials(run, SPACE)
    assert absolute("sqlite://") == "sqlite://"
    assert absolute("postgresql://me:secret@host/db") == "postgresql://me:secret@host/db"


def test_where_the_password_is_missing_the_error_names_another_way(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="needs the extra 'postgresql'")
    card = {"storage": "postgresql+psycopg2://me:***@127.0.0.1:9/db", "study": "run", "settings": SETTINGS}
    write_json(tmp_path / CARD, card)
    with pytest.raises(RunError, match=r"reached.*; its password is not kept: .* --accuracies .*/result\.json"):
        read_trials(tmp_path, SPACE)


@pytest.mark.parametrize(
    "line",
    ["123", "[1]", "null", '"x"', '{"user_attr": 5}', '{"user_attr": null}', '{"user_attr": {"settings": 5}}',
     '{"op_code": 99, "worker_id": "x"}'],
)  # fmt: skip
def test_a_journal_with_a_line_that_is_none_is_one_line(
    line: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / JOURNAL).write_text(f"{line}\n")
    check_run(tmp_path, SETTINGS)
    unreadable = "cannot be read as a journal"
    with pytest.raises(RunError, match=unreadable), open_study(tmp_path, SETTINGS, SPACE, ("maximize",)):
        pass
    with pytest.raises(RunError, match=unreadable):
        read_trials(tmp_path, SPACE)
    flags = ["--runtime", "null", "--target-latency", "1s", "--quiet"]
    assert main(["search", "--space", str(tiny_space), "--run", str(tmp_path), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert (tmp_path / JOURNAL).read_text() == f"{line}\n"


def test_a_password_is_written_nowhere(tmp_path: Path) -> None:
    assert masked("postgresql+psycopg2://me:secret@host/db") == "postgresql+psycopg2://me:***@host/db"
    with open_study(tmp_path / "run", SETTINGS, SPACE, ("maximize",), url_of(tmp_path)) as study:
        fill(study, range(1))
    card = json.loads((tmp_path / "run" / CARD).read_text())
    assert card == {"storage": url_of(tmp_path), "study": "run", "settings": SETTINGS}


def test_the_lock_of_a_journal_cuts_off_what_a_dead_process_had_half_written(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL
    for content, kept in ((b"", b""), (b"one\ntwo\n", b"one\ntwo\n"), (b"one\ntw", b"one\n"), (b"tw", b"")):
        journal.write_bytes(content)
        lock = JournalLock(journal)
        assert lock.acquire()
        lock.release()
        assert journal.read_bytes() == kept


def test_processes_share_a_study_in_postgresql(tiny_space: Path, tmp_path: Path) -> None:
    with server() as url:
        check_shared(killed("shared", tiny_space, tmp_path, 1, url))


MAKE = """
import sys, time
from pathlib import Path
from nas.study.storage import open_storage
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.001)
open_storage(Path(sys.argv[1]), f"sqlite:///{sys.argv[1]}/runs.db")
"""


def test_processes_that_make_one_database_at_the_same_time_all_open_it(tmp_path: Path) -> None:
    errors = [tmp_path / f"error{number}" for number in range(4)]
    started = [start_nas([str(tmp_path)], stderr=error, code=MAKE) for error in errors]
    (tmp_path / "go").touch()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4, [error.read_text() for error in errors]


def test_a_database_whose_tables_are_half_made_is_waited_for_and_a_foreign_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.study.storage.MAKING_S", 0.1)
    for name, waits in (("studies", True), ("customers", False)):
        path = tmp_path / f"{name}.db"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(f"create table {name} (id integer)")
        pauses: list[float] = []
        monkeypatch.setattr("nas.study.storage.time.sleep", pauses.append)
        with pytest.raises(RunError, match=f"is not an Optuna storage: it has a table '{name}'"):
            open_storage(tmp_path, f"sqlite:///{path}")
        assert bool(pauses) == waits
