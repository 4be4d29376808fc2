"""Workers on other machines, over OpenSSH's `ssh`: one connection, one process, nothing to install.

The user's keys, config, agent and known_hosts apply. A small bootstrap starts on the device, reads the worker's sources
as a zip file from stdin into a temporary directory, and starts the worker on the same stdin. It removes the directory
when the worker ends or crashes, and when the connection ends.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.devices.process_pipe import ProcessPipe, timeout_s
from nas.errors import UsageError

SSH_VARIABLE = "NAS_SSH"
FORM = "ssh://user@host:port/path/to/python"
# Neither user nor host may begin with '-': ssh would parse it as an option.
URL = re.compile(
    r"ssh://((?P<user>\w[\w.+-]*)@)?(?P<host>\w[\w.-]*|\[[\w:.%]+\])(:(?P<port>\d{1,5}))?(?P<path>/.*[^/])?/?"
)
CONNECT_S = 15
DEVICE_MODULES = (
    "__init__",
    "errors",
    "utils/__init__",
    "utils/registry",
    "devices/__init__",
    "devices/energy_and_memory",
    "devices/example_inputs",
    "devices/offline_runner",
    "devices/processor",
    "devices/timing",
    "devices/worker",
)
"""The modules that run on a device, besides nas/devices/runtimes/: standard library, numpy and one runtime."""

# The first lines must run on any Python, so that an old one can report that it is too old.
BOOTSTRAP = """
import sys
if sys.version_info < (3, 9):
    needed = '{"error": "Python 3.9 or later is needed there, this one is %d.%d"}'
    sys.stdout.write(needed % sys.version_info[:2] + chr(10))
    sys.exit(1)
import json, os, select, shutil, signal, subprocess, tempfile, threading
def watch():
    poll = select.poll()
    poll.register(1, 0)
    poll.poll()  # returns when the answers can no longer be read
    child.kill()
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: sys.exit(1))
folder = tempfile.mkdtemp(prefix="nas-worker-")
child = None
try:
    archive, left = os.path.join(folder, "worker.zip"), int(sys.argv[1])
    with open(archive, "wb") as file:
        while left:
            part = os.read(0, min(left, 65536))
            if not part:
                sys.exit(1)
            left -= file.write(part)
    environment = dict(os.environ, PYTHONPATH=archive, TMPDIR=folder, **json.loads(sys.argv[2]))
    child = subprocess.Popen([sys.executable, "-m", "nas.devices.worker"], cwd=folder, env=environment)
    threading.Thread(target=watch, daemon=True).start()
    if child.wait() < 0:
        sys.stderr.write("ended by signal %d" % -child.returncode + chr(10))
finally:
    if child is not None:
        child.kill()
        child.wait()
    shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True)
class Address:
    """The address of a device.

    Attributes:
        host: Host name for ssh.
        user: User name; None for ssh's default.
        port: Port; None for ssh's default.
        python: The Python to start on the device.
    """

    host: str
    user: str | None
    port: int | None
    python: str

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Parse `ssh://user@host:port/path/to/python`; a path `/~/x` is x in the home directory. Raises UsageError."""
    found = URL.fullmatch(url)
    port = int(found["port"] or 22) if found else 0
    if not found or not 0 < port < 1 << 16 or not url.isprintable():
        raise UsageError(f"must be 'local' or {FORM} (user, port and path are optional)", key="device", value=url)
    python = re.sub("^/~/", "./", found["path"] or "")
    return Address(found["host"].strip("[]"), found["user"], port if found["port"] else None, python or "python3")


def ssh_command(address: Address, arguments: list[str]) -> list[str]:
    """Return the ssh command that runs `arguments` on the device. It ends in bounded time if the device fails."""
    ssh = shlex.split(os.environ.get(SSH_VARIABLE) or "ssh")
    connect_s = max(1, min(CONNECT_S, round(timeout_s())))
    options = ["BatchMode=yes", f"ConnectTimeout={connect_s}", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
    where = ["-p", str(address.port)] if address.port else []
    name = f"{address.user}@{address.host}" if address.user else address.host
    return [*ssh, *(f"-o{option}" for option in options), *where, "-T", "--", name, shlex.join(arguments)]


def start_remote(address: Address, environment: Mapping[str, str]) -> ProcessPipe:
    """Start a worker on the device and return the pipe to it."""
    sources = worker_sources()
    command = [address.python, "-c", BOOTSTRAP, str(len(sources)), json.dumps(dict(environment))]
    pipe = ProcessPipe(f"the worker on {address}", ssh_command(address, command))
    pipe.send(sources)
    return pipe


def device_files(package: Path) -> list[Path]:
    """Return the files of the package `nas` that are sent to a device."""
    runtimes = sorted((package / "devices" / "runtimes").glob("*.py"))
    return [*(package / f"{module}.py" for module in DEVICE_MODULES), *runtimes]


def worker_sources() -> bytes:
    """Return the sources that run on a device as a zip file; the bytes depend on the sources only."""
    package, stream = Path(__file__).parent.parent, io.BytesIO()
    paths = device_files(package)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.writestr(zipfile.ZipInfo(f"nas/{path.relative_to(package).as_posix()}"), path.read_bytes())
    return stream.getvalue()
