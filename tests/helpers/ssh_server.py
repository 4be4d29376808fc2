"""A real sshd on 127.0.0.1 with throw-away keys, as a child of the test that needs it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


@dataclass
class Sshd:
    """A server that runs, how to reach it, and `ssh`, what NAS_SSH must be for that."""

    process: subprocess.Popen[bytes]
    port: int
    ssh: str

    def url(self, python: str = sys.executable) -> str:
        """Return the device's URL, with the Python of the tests."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{python}"

    def cut(self) -> int:
        """Kill the server's processes of the open connections and return how many there were."""
        children = [pid for pid in processes() if parent(pid) == self.process.pid]
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return len(children)


def processes() -> list[int]:
    """Return the numbers of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def parent(pid: int) -> int:
    """Return a process's parent, or 0 where it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Sshd]:
    """Give a running sshd; skip the test, with the reason, where there can be none."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).is_file() or not shutil.which("ssh"):
        pytest.skip("needs OpenSSH: no sshd or no ssh here")
    if os.geteuid() == 0:
        try:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            pytest.skip(f"sshd needs /run/sshd: {error}")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    ssh = (
        f"ssh -F none -i {folder}/user -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "
        f"-o UserKnownHostsFile={folder}/known"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        wait_for(port, process, folder / "log")
        yield Sshd(process, port, ssh)
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server listens; skip where it does not come up."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
