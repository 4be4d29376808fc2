from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nas.utils.paths import user_cache


def test_the_variable_comes_before_the_cache_of_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "own"))
    assert user_cache() == tmp_path / "own"


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other folders")
def test_the_cache_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "nas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "nas"
