"""Where a study is kept: the journal in its run's folder, or an SQL database that several machines share.

Both are Optuna storages, so `optuna-dashboard` and Optuna itself open them. Of a study in a database the run's folder
holds a card that says where it is, without the password.
"""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.errors import NasError, RunError
from nas.utils.files import HAS_LOCKS, LOCK, check_same_settings, drop_cut_line, exclusive, read_json, write_json

JOURNAL = "journal.log"
CARD = "study.json"
BEGIN, FINISH, WORKERS = "begin.lock", "finish.lock", "workers"
PASSING = {LOCK, BEGIN, FINISH, WORKERS}
"""What a folder holds beside its study while processes work on it."""
TABLE_DIGEST = "table_digest"
"""The setting that tells which latency table a study's latencies are of; compared where both sides have it."""
STUDY_NAME = "nas"
"""The name of the study in a journal, which holds one. In a database a study is called as its run's folder."""
UNREADABLE = (ValueError, LookupError, AttributeError, TypeError, AssertionError)
"""What Optuna raises where a journal's lines are no journal's."""
BUSY_S = 60
"""How long SQLite waits for another process that writes."""
EXAMPLES = "'sqlite:///runs.db' or 'postgresql+psycopg2://user@host/database'"


class JournalLock:
    """The lock under which Optuna appends to a journal. The kernel frees it when its holder dies.

    What a dead one had half written is cut off before the next writes: lines are whole.
    """

    def __init__(self, journal: Path):
        self._journal, self._held = journal, contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock, then mend the journal."""
        with contextlib.ExitStack() as held:
            held.enter_context(exclusive(self._journal.with_name(LOCK), keep=True))
            with self._journal.open("r+b") as file:
                if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                    drop_cut_line(file)
            self._held = held.pop_all()
        return True

    def release(self) -> None:
        """Let the next one write."""
        self._held.close()


def open_storage(folder: Path, url: str | None) -> Any:
    """Return the Optuna storage of a run's folder. Raises RunError, in one line, for whatever is wrong with it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _parse_distributions_once()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _database(url) if url else _journal(folder / JOURNAL)


def study_name(folder: Path, url: str | None) -> str:
    """Return what the study of a run's folder is called in its storage."""
    return folder.resolve().name if url else STUDY_NAME


def database_place(folder: Path, url: str) -> str:
    """Return which study of which database a run's folder has, in words."""
    return f"--storage '{masked(url)}', study '{study_name(folder, url)}'"


@contextlib.contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn what a storage raises while it is used into a RunError of one line that begins with `place`."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except OSError as error:
        raise RunError(f"{place}: the study cannot be read or written: {error}") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunError(f"{place}: the storage cannot be used: {_first_line(error)}") from error
    except UNREADABLE as error:
        if isinstance(error, NasError):
            raise
        raise RunError(f"{place}: cannot be read as a journal: {error}") from error


def masked(url: str) -> str:
    """Return a storage's URL without its password. Raises RunError where it is no URL."""
    import sqlalchemy.engine
    import sqlalchemy.exc

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise RunError(f"--storage: must be a URL as {EXAMPLES}: '{url}'") from None


def absolute(url: str) -> str:
    """Return a storage's URL with the path of a SQLite file from the root. Raises RunError where it is no URL."""
    path = lite_path(url)
    if path is None or path.is_absolute():
        return url
    import sqlalchemy.engine

    return sqlalchemy.engine.make_url(url).set(database=str(path.absolute())).render_as_string(hide_password=False)


def lite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None of another database, or one in memory. Raises RunError where it is none."""
    masked(url)
    import sqlalchemy.engine

    made = sqlalchemy.engine.make_url(url)
    held = made.database if made.get_backend_name() == "sqlite" else None
    return Path(held) if held and held != ":memory:" and not held.startswith("file:") else None


def open_to_read(folder: Path, url: str | None) -> Any:
    """Return the Optuna storage that the card of a run's folder names, None for its journal; makes no database.

    Raises RunError, in one line, for whatever is wrong with it.
    """
    file = lite_path(url) if url else None
    if file is not None and not file.is_file():
        raise RunError(f"{folder}: its trials are in --storage '{url}': no such file")
    try:
        return open_storage(folder, url)
    except RunError as error:
        if url is None or ":***@" not in url:
            raise
        way = f"its password is not kept: without it --accuracies {folder}/result.json reads a search that has ended"
        raise RunError(f"{error}; {way}") from error


def check_run(folder: Path, settings: Mapping[str, Any], url: str | None = None) -> None:
    """Raise RunError where `folder` is no run's, or another's, or its study in the database `url` is.

    Writes nothing, but that a database which can be reached has Optuna's tables afterwards.
    """
    if folder.exists():
        if not folder.is_dir():
            raise RunError(f"{folder}: not a folder")
        if (folder / CARD).is_file() or (folder / JOURNAL).is_file():
            check_kept(folder, settings, url)
        elif any(path.name not in PASSING for path in folder.iterdir()):
            raise RunError(f"{folder}: is not a run folder: it has files, but no {JOURNAL}")
    if url:
        storage = open_storage(folder, url)
        place = database_place(folder, url)
        with contextlib.suppress(KeyError):
            study_id = storage.get_study_id_from_name(study_name(folder, url))
            same_experiment(place, storage.get_study_user_attrs(study_id).get("settings"), settings)


def check_kept(folder: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Raise RunError where a run's folder holds the trials of another experiment, or says that they are elsewhere."""
    journal = folder / JOURNAL
    if (folder / CARD).is_file():
        check_card(folder, settings, url)
    elif journal.is_file():
        if url:
            raise RunError(f"{folder}: its trials are in its {JOURNAL}: leave out --storage, or give another --run")
        same_experiment(folder, _stored_settings(journal), settings)


def check_card(folder: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Raise RunError where the card of a run's folder names another storage or experiment."""
    card = read_json(folder / CARD)
    there = card.get("storage")
    if url is None or there not in (masked(url), masked(absolute(url))):
        given = f", not '{masked(url)}'" if url else ""
        raise RunError(f"{folder}: its trials are in --storage '{there}'{given}")
    same_experiment(folder, card.get("settings"), settings)


def write_card(folder: Path, settings: Mapping[str, Any], url: str) -> None:
    """Write where the study of a run's folder is kept."""
    found = {"storage": masked(absolute(url)), "study": study_name(folder, url), "settings": dict(settings)}
    write_json(folder / CARD, found)


def same_experiment(folder: Path | str, stored: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Raise RunError with the first setting that differs from those of the study, where it has any yet."""
    if stored is not None and not isinstance(stored, Mapping):
        raise RunError(f"{folder}: the settings of its search cannot be read: {stored!r}")
    if stored is not None:
        known = stored.keys() & settings.keys()
        optional = {TABLE_DIGEST} - known
        check_same_settings(
            folder,
            {key: value for key, value in stored.items() if key not in optional},
            {key: value for key, value in settings.items() if key not in optional},
            "--run",
        )


def _stored_settings(journal: Path) -> dict[str, Any] | None:
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                found = json.loads(line)
                attributes = found.get("user_attr") if isinstance(found, dict) else None
                settings = attributes.get("settings") if isinstance(attributes, dict) else None
                if isinstance(settings, dict):
                    return settings
    return None


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    lock = JournalLock(path) if HAS_LOCKS else JournalFileOpenLock(str(path))
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (OSError, *UNREADABLE) as error:
        raise RunError(f"{path}: cannot be read as a journal: {error}") from error


def _database(url: str) -> Any:
    import sqlalchemy
    import sqlalchemy.exc
    from optuna.storages import RDBStorage, get_storage

    place = f"--storage: '{masked(url)}'"
    lite = url.startswith("sqlite")
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_S}} if lite else {"pool_pre_ping": True}
    try:
        engine = sqlalchemy.create_engine(url, **options)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
        if tables and not {"studies", "version_info"} <= tables:
            raise RunError(f"{place} is not an Optuna storage: it has a table '{min(tables)}'")
        return get_storage(RDBStorage(url, engine_kwargs=options))
    except sqlalchemy.exc.NoSuchModuleError:
        raise RunError(f"{place}: SQLAlchemy knows no such database; give a URL as {EXAMPLES}") from None
    except ImportError as error:
        raise RunError(f"{place}: needs a driver: {_install(url, error)}") from None
    except sqlalchemy.exc.OperationalError as error:
        raise RunError(f"{place} cannot be reached: {_first_line(error)}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise RunError(f"{place} is not an Optuna storage: {_first_line(error)}") from error
    except RuntimeError as error:  # Optuna's check of the schema
        raise RunError(f"{place} has the schema of another Optuna: {_first_line(error)}") from error


def _install(url: str, error: ImportError) -> str:
    if url.startswith("postgresql") and "psycopg2" in str(error):
        return "pip install 'hwnas[postgresql]'"
    return f"pip install {getattr(error, 'name', None) or str(error)}"


def _first_line(error: BaseException) -> str:
    """Return what a database says, in one line: SQLAlchemy wraps it, Optuna wraps that."""
    while error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    said = str(getattr(error, "orig", None) or error)
    return " ".join(said.split())[:300]


def _parse_distributions_once() -> None:
    """Let Optuna parse each distribution once, not once for every parameter of every trial.

    That is three quarters of the time that opening a long study takes (benchmarks/study_growth.py).
    """
    import optuna.distributions
    import optuna.storages.journal._storage

    for module in (optuna.distributions, optuna.storages.journal._storage):
        parse = getattr(module, "json_to_distribution", None)
        if parse is not None and not hasattr(parse, "cache_info"):
            module.json_to_distribution = functools.lru_cache(maxsize=100_000)(parse)
