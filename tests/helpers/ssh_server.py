"""A real sshd on 127.0.0.1 with temporary keys, as a child process of the test."""

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
    """A running server.

    Attributes:
        process: The server process.
        port: Its port.
        ssh: The value of NAS_SSH that connects to it.
    """

    process: subprocess.Popen[bytes]
    port: int
    ssh: str

    def url(self, python: str = sys.executable) -> str:
        """Return the URL of the device, with the Python of the tests by default."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{python}"

    def cut(self) -> int:
        """Kill the server's processes of the open connections and return their number."""
        children = [pid for pid in processes() if parent(pid) == self.process.pid]
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return len(children)


def processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def parent(pid: int) -> int:
    """Return the parent of a process, or 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Sshd]:
    """Yield a running sshd; skip the test, with the reason, if it cannot start."""
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
    """Wait until the server listens; skip the test if it does not start."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
