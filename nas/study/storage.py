"""Storages of studies: the journal in the run folder, or an SQL database that several machines share.

Both are Optuna storages, so `optuna-dashboard` and Optuna itself can open them. If a study is in a database, its run
folder has a card that names the database, without the password.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.errors import NasError, RunError
from nas.utils.files import HAS_LOCKS, IMAGE_RECORD, LOCK, drop_cut_line, exclusive, read_json, write_json
from nas.utils.run_identity import check_same_settings

JOURNAL = "journal.log"
CARD = "study.json"
BEGIN, FINISH, WORKERS = "begin.lock", "finish.lock", "workers"
PASSING = {LOCK, BEGIN, FINISH, WORKERS, IMAGE_RECORD}
"""Further files in a run folder. They do not make it a run."""
STUDY_NAME = "nas"
"""The name of the only study in a journal. In a database, a study has the name of its run folder."""
UNREADABLE = (ValueError, LookupError, AttributeError, TypeError, AssertionError)
"""What Optuna raises for an invalid journal."""
BUSY_S = 60
"""How long SQLite waits for another process to finish writing, in seconds."""
MAKING_S = 30
"""How long another process may take to make the tables of a database, in seconds."""
FEWEST_ATTEMPTS = 3
"""On a busy machine, one attempt to make the tables can take longer than `MAKING_S`."""
OPTUNA_TABLES = ("study", "studies", "trial", "version_info", "alembic")
"""How the names of Optuna's tables begin."""
EXAMPLES = "'sqlite:///runs.db' or 'postgresql+psycopg2://user@host/database'"


class JournalLock:
    """The lock under which Optuna appends to a journal. The kernel frees it when its process ends.

    If a process died in the middle of a line, the next one removes that line before it writes.
    """

    def __init__(self, journal: Path):
        self._journal, self._held = journal, contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock, then remove an incomplete last line."""
        with contextlib.ExitStack() as held:
            held.enter_context(exclusive(self._journal.with_name(LOCK), keep=True))
            with self._journal.open("r+b") as file:
                if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                    drop_cut_line(file)
            self._held = held.pop_all()
        return True

    def release(self) -> None:
        """Free the lock."""
        self._held.close()


def open_storage(folder: Path, url: str | None) -> Any:
    """Return the Optuna storage of a run folder. Raises RunError if it cannot be used."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _parse_distributions_once()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _database(url) if url else _journal(folder / JOURNAL)


def study_name(folder: Path, url: str | None) -> str:
    """Return the name of a run folder's study in its storage."""
    return folder.resolve().name if url else STUDY_NAME


def database_place(folder: Path, url: str) -> str:
    """Return the database and the study of a run folder in words, for error messages."""
    return f"--storage '{masked(url)}', study '{study_name(folder, url)}'"


@contextlib.contextmanager
def reaching(place: str) -> Iterator[None]:
    """Convert the exceptions of a storage into RunErrors that begin with `place`."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except OSError as error:
        raise RunError(f"the study cannot be read or written: {error}", where=place) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunError(f"the storage cannot be used: {_one_line(error)}", where=place) from error
    except UNREADABLE as error:
        if isinstance(error, NasError):
            raise
        raise RunError(f"cannot be read as a journal: {error}", where=place) from error


def masked(url: str) -> str:
    """Return a storage URL without its password. Raises RunError if it is not a URL."""
    import sqlalchemy.engine
    import sqlalchemy.exc

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise RunError(f"must be a URL such as {EXAMPLES}", where="--storage", value=url) from None


def absolute(url: str) -> str:
    """Return a storage URL, with an absolute path for a SQLite file. Raises RunError if it is not a URL."""
    path = sqlite_path(url)
    if path is None or path.is_absolute():
        return url
    import sqlalchemy.engine

    return sqlalchemy.engine.make_url(url).set(database=str(path.absolute())).render_as_string(hide_password=False)


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for other databases and for one in memory."""
    masked(url)
    import sqlalchemy.engine

    made = sqlalchemy.engine.make_url(url)
    name = made.database if made.get_backend_name() == "sqlite" else None
    return Path(name) if name and name != ":memory:" and not name.startswith("file:") else None


def open_to_read(folder: Path, url: str | None) -> Any:
    """Return the Optuna storage of a run folder for reading, without creating a database.

    Args:
        folder: The run folder.
        url: The URL on its card; None for the journal.

    Raises:
        RunError: The storage cannot be used.
    """
    file = sqlite_path(url) if url else None
    if file is not None and not file.is_file():
        raise RunError(f"its trials are in --storage '{url}': no such file", where=folder)
    try:
        return open_storage(folder, url)
    except RunError as error:
        if url is None or ":***@" not in url:
            raise
        hint = f"its password is not kept: --accuracies {folder}/result.json reads a finished search without it"
        raise RunError(f"{error}; {hint}") from error


def stored_settings(folder: Path, url: str | None = None) -> Mapping[str, Any] | None:
    """Return what identifies the experiment in a run folder or in the database `url`; None if neither has one.

    Raises RunError if they cannot be read.
    """
    found: Any = None
    if (folder / CARD).is_file():
        found = read_json(folder / CARD).get("settings")
    elif (folder / JOURNAL).is_file():
        found = _stored_settings(folder / JOURNAL)
    elif url:
        storage = open_storage(folder, url)
        with contextlib.suppress(KeyError):
            study_id = storage.get_study_id_from_name(study_name(folder, url))
            found = storage.get_study_user_attrs(study_id).get("settings")
    return found if isinstance(found, Mapping) else None


def check_run(folder: Path, settings: Mapping[str, Any], url: str | None = None) -> None:
    """Check that a run folder, and the database `url` if given, are free or belong to this experiment.

    It writes nothing, except that Optuna creates its tables in a database.

    Args:
        folder: The run folder.
        settings: What identifies the experiment.
        url: The database that holds the study; None for the journal in the folder.

    Raises:
        RunError: The folder is not a run folder, or it or the study belongs to another experiment.
    """
    if folder.exists():
        if not folder.is_dir():
            raise RunError("not a folder", where=folder)
        if (folder / CARD).is_file() or (folder / JOURNAL).is_file():
            check_kept(folder, settings, url)
        elif any(path.name not in PASSING for path in folder.iterdir()):
            raise RunError(f"is not a run folder: it has files, but no {JOURNAL}", where=folder)
    if url:
        storage = open_storage(folder, url)
        place = database_place(folder, url)
        with contextlib.suppress(KeyError):
            study_id = storage.get_study_id_from_name(study_name(folder, url))
            same_experiment(place, storage.get_study_user_attrs(study_id).get("settings"), settings)


def check_kept(folder: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Raise RunError if a run folder belongs to another experiment, or if its trials are in another storage."""
    journal = folder / JOURNAL
    if (folder / CARD).is_file():
        check_card(folder, settings, url)
    elif journal.is_file():
        if url:
            raise RunError(f"its trials are in its {JOURNAL}: leave out --storage, or give another --run", where=folder)
        same_experiment(folder, _stored_settings(journal), settings)


def check_card(folder: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Raise RunError if the card of a run folder names another storage or experiment."""
    card = read_json(folder / CARD)
    there = card.get("storage")
    if url is None or there not in (masked(url), masked(absolute(url))):
        given = f", not '{masked(url)}'" if url else ""
        raise RunError(f"its trials are in --storage '{there}'{given}", where=folder)
    same_experiment(folder, card.get("settings"), settings)


def write_card(folder: Path, settings: Mapping[str, Any], url: str) -> None:
    """Write the card of a run folder, which names the storage of its study."""
    card = {"storage": masked(absolute(url)), "study": study_name(folder, url), "settings": dict(settings)}
    write_json(folder / CARD, card)


def same_experiment(folder: Path | str, stored: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Raise RunError with the first setting that differs from the stored ones. A new study has none stored."""
    if stored is not None and not isinstance(stored, Mapping):
        raise RunError("the settings of its search cannot be read", where=folder, value=stored)
    if stored is not None:
        check_same_settings(folder, stored, settings, "--run")


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
        raise RunError(f"cannot be read as a journal: {error}", where=path) from error


def _database(url: str) -> Any:
    import sqlalchemy
    import sqlalchemy.exc
    from optuna.storages import RDBStorage, get_storage

    place = f"--storage '{masked(url)}'"
    options: dict[str, Any] = (
        {"connect_args": {"timeout": BUSY_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
    try:
        if foreign := _foreign_table(url, options):
            raise RunError(f"is not an Optuna storage: it has a table '{foreign}'", where=place)
        return _created(lambda: get_storage(RDBStorage(url, engine_kwargs=options)))
    except sqlalchemy.exc.NoSuchModuleError:
        raise RunError(f"SQLAlchemy knows no such database; give a URL such as {EXAMPLES}", where=place) from None
    except ImportError as error:
        raise RunError(f"needs a driver: {_install_command(url, error)}", where=place) from None
    except sqlalchemy.exc.OperationalError as error:
        raise RunError(f"cannot be reached: {_one_line(error)}", where=place) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise RunError(f"is not an Optuna storage: {_one_line(error)}", where=place) from error
    except RuntimeError as error:  # Optuna's check of the schema
        raise RunError(f"has the schema of another Optuna version: {_one_line(error)}", where=place) from error


def _foreign_table(url: str, options: dict[str, Any]) -> str | None:
    """Return a table of a database that is not Optuna's. Waits while another process makes Optuna's tables."""
    import sqlalchemy

    deadline = time.monotonic() + MAKING_S
    while True:
        engine = sqlalchemy.create_engine(url, **options)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
        if not tables or {"studies", "version_info"} <= tables:
            return None
        if not all(table.startswith(OPTUNA_TABLES) for table in tables) or time.monotonic() > deadline:
            return min(tables)
        time.sleep(0.1)


def _created(make: Callable[[], Any]) -> Any:
    """Return what `make` returns. If another process makes the tables of the database at the same time, try again."""
    import sqlalchemy.exc

    deadline, attempts = time.monotonic() + MAKING_S, 0
    while True:
        attempts += 1
        try:
            return make()
        except sqlalchemy.exc.DBAPIError as error:
            collided = any(words in _one_line(error).lower() for words in ("already exists", "duplicate", "unique"))
            if not collided or (attempts >= FEWEST_ATTEMPTS and time.monotonic() > deadline):
                raise
        time.sleep(0.1)


def _install_command(url: str, error: ImportError) -> str:
    if url.startswith("postgresql") and "psycopg2" in str(error):
        return "pip install 'hwnas[postgresql]'"
    return f"pip install {getattr(error, 'name', None) or str(error)}"


def _one_line(error: BaseException) -> str:
    """Return the message of the database in one line. SQLAlchemy wraps its exception, and Optuna wraps that one."""
    while error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    message = str(getattr(error, "orig", None) or error)
    return " ".join(message.split())[:300]


def _parse_distributions_once() -> None:
    """Make Optuna parse each distribution once, and not once for every parameter of every trial.

    This parsing takes three quarters of the time to open a long study (benchmarks/study_growth.py).
    """
    import optuna.distributions
    import optuna.storages.journal._storage

    for module in (optuna.distributions, optuna.storages.journal._storage):
        parse = getattr(module, "json_to_distribution", None)
        if parse is not None and not hasattr(parse, "cache_info"):
            module.json_to_distribution = functools.lru_cache(maxsize=100_000)(parse)
