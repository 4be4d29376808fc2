from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import RunError
from nas.utils import files
from nas.utils.files import LOCK, append_rows, drop_cut_line, free_lock, is_locked, locked, take_lock


@given(st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\n")), st.integers(1, 9))
def test_a_file_is_cut_back_to_its_last_whole_line(content: bytes, block: int) -> None:
    file = io.BytesIO(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        length = drop_cut_line(file)
    assert file.getvalue() == content[: content.rfind(b"\n") + 1]
    assert length == file.tell() == len(file.getvalue())


def test_rows_are_appended_behind_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, {"format": 1}, [{"a": 1}])
    path.write_bytes(path.read_bytes() + b'{"b": ')
    append_rows(path, {"format": 1}, [{"c": 3}])
    assert path.read_text() == '{"format": 1}\n{"a": 1}\n{"c": 3}\n'


@pytest.mark.skipif(not files.HAS_LOCKS, reason="the platform has no such locks")
def test_a_locked_folder_names_its_holder(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(RunError, match=f"in use by process {os.getpid()}$") as caught,
        locked(tmp_path),
    ):
        pass
    assert caught.value.where == str(tmp_path)
    assert not is_locked(tmp_path / LOCK)
    with locked(tmp_path):
        assert is_locked(tmp_path / LOCK)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_a_forked_child_does_not_keep_the_locks_of_its_parent(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / LOCK)
    assert lock is not None
    ready, child_is_ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(child_is_ready, b"x")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        assert is_locked(tmp_path / LOCK)
        free_lock(lock)
        assert not is_locked(tmp_path / LOCK)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
