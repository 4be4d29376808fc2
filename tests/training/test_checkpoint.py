"""Checkpoints: whole or not at all, of one training, and nothing in them is executed."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import WeightsError
from nas.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint

IDENTITY = {"learning_rate": 0.003, "seed": 0, "network": "a", "teacher": None}


def state() -> dict[str, Any]:
    return {
        "model": {"weight": torch.arange(6.0).reshape(2, 3)},
        "curve": [{"number": 0, "loss": 1.5}],
        "batch_size": 4,
    }


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    assert load_checkpoint(path, IDENTITY) is None
    save_checkpoint(path, IDENTITY, state())
    found = load_checkpoint(path, IDENTITY)
    assert found is not None
    assert torch.equal(found["model"].pop("weight"), state()["model"]["weight"])
    assert found == {**state(), "model": {}}
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", 0.01), ("seed", 1), ("network", "b"), ("teacher", "c"), ("more", 1)]
)
def test_another_training_is_named_by_what_differs(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, IDENTITY, state())
    there = IDENTITY.get(key)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path, {**IDENTITY, key: value})
    assert str(caught.value) == f"{path}: belongs to another training: {key} is {there!r} there and {value!r} now"


class Runs:
    """A pickle that leaves a file behind where it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def test_what_is_no_checkpoint_is_one_line_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, IDENTITY, state())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    broken(path)
    path.write_bytes(whole[:200] + bytes(100) + whole[300:])
    broken(path)
    for content in ([1], {"format": 1}, {"format": 2, "identity": IDENTITY, "state": {}}, {"weight": torch.ones(2)}):
        torch.save(content, path)
        broken(path)
    torch.save({"format": 1, "identity": Runs(tmp_path / "ran"), "state": {}}, path)
    broken(path)
    assert not (tmp_path / "ran").exists()


def broken(path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path, IDENTITY)
    assert str(caught.value).startswith(f"{path}: not a checkpoint")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "checkpoint.pt"
    path.write_bytes(content)
    broken(path)


def test_a_full_disk_is_one_line_and_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, IDENTITY, state())
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(WeightsError, match="the checkpoint cannot be written: File too large") as caught:
            save_checkpoint(path, IDENTITY, {"model": {"weight": torch.zeros(5000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).startswith(str(path))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_fingerprint_is_of_names_shapes_and_values() -> None:
    weights = {"a": torch.ones(2, 3), "n": torch.tensor(3)}
    known = fingerprint(weights)
    assert known == fingerprint({key: value.clone() for key, value in weights.items()})
    changed = [
        {"b": weights["a"], "n": weights["n"]},
        {**weights, "a": torch.ones(3, 2)},
        {**weights, "n": torch.tensor(4)},
    ]
    assert known not in {fingerprint(each) for each in changed}
    assert fingerprint({"a": torch.ones(2).to("meta")}) == fingerprint({"a": torch.zeros(2).to("meta")})
