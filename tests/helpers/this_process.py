"""A stand-in for `subprocess` where an export checks its Python file."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import traceback

import torch


class ThisProcess:
    """Stands in for `subprocess` where a Python file is run: it runs here, without another import of torch."""

    @staticmethod
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """Run the file and return what a process would; what it draws at random is not missing here."""
        try:
            with contextlib.redirect_stdout(io.StringIO()) as out, torch.random.fork_rng(devices=[]):
                runpy.run_path(command[-1], run_name="__main__")
        except SystemExit as error:
            return subprocess.CompletedProcess(command, 1, "", str(error.code))
        except Exception:
            return subprocess.CompletedProcess(command, 1, "", traceback.format_exc())
        return subprocess.CompletedProcess(command, 0, out.getvalue(), "")
