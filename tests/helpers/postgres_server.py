"""A PostgreSQL server for a test: a real one, on a free port of this machine, with nothing in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Give the URL of a database; skips where there is no PostgreSQL or no driver for it."""
    pytest.importorskip("psycopg2", reason="needs the extra 'postgresql'")
    found = shutil.which("initdb"), shutil.which("pg_ctl")
    if None in found:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    initdb, pg_ctl = map(str, found)
    user = "nobody" if os.getuid() == 0 else None  # the server does not run as root
    with tempfile.TemporaryDirectory() as base, socket.socket() as probe:
        data = Path(base) / "data"
        data.mkdir(mode=0o700)
        Path(base).chmod(0o755)
        if user:
            shutil.chown(data, user)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        def run(*command: str) -> None:
            subprocess.run(command, user=user, cwd=data, check=True, stdout=subprocess.DEVNULL, env={**os.environ,
                           "LC_ALL": "C"})  # fmt: skip

        run(initdb, "-D", str(data), "-A", "trust", "-U", "nas", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
        run(pg_ctl, "-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://nas:secret@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-D", str(data), "-w", "-m", "immediate", "stop")
