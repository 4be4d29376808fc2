from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.utils import files
from nas.utils.files import append_rows, drop_cut_line


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
