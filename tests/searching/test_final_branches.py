"""Branches in the training of a search's winner and of its references."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nas.cli.main import main
from nas.errors import SpaceError
from nas.networks.network import build
from nas.spaces.search_space import Space
from nas.spaces.trainings import FinalTraining
from nas.spaces.yaml_format import parse_space
from nas.training.branches import branched

SPACE = {
    "resolution": 16,
    "stages": [{"block": "conv", "out_channels": [4, 8], "stride": 2}],
    "head": {"block": "classifier", "num_classes": 10},
    "proxy": {"resolution": 16, "epochs": 1, "images": 64},
    "final": {"epochs": 1, "images": 64},
}


def space(branches: int) -> Space:
    found = parse_space("small", SPACE, "small.yaml")
    return replace(found, final=replace(found.final, branches=branches))


def test_the_digest_of_a_space_without_branches_stays() -> None:
    assert space(0).digest == parse_space("small", SPACE, "small.yaml").digest
    assert len({space(number).digest for number in range(3)}) == 3
    assert space(0).key == space(2).key


def test_too_many_branches_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpaceError, match=r"small\.yaml, final: branches: must be at most 8: 9"):
        parse_space("small", {**SPACE, "final": {"branches": 9}}, "small.yaml")
    assert parse_space("small", {**SPACE, "final": {"branches": 8}}, "").final == FinalTraining(branches=8)
    assert main(["search", "--target-latency", "1ms", "--final-branches", "9", "--run", "run"]) == 2
    assert "--final-branches: must be at most 8: 9" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("is_in_file", [True, False])
def test_winner_and_reference_train_with_branches_and_are_deployed_without(
    is_in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    @contextmanager
    def noted(model: nn.Module, count: int, seed: int) -> Iterator[None]:
        given.append(count)
        with branched(model, count, seed):
            yield

    replaced: Callable[..., object] = noted
    monkeypatch.setattr("nas.training.loop.branched", replaced)
    final = {**SPACE["final"], **({"branches": 2} if is_in_file else {})}  # type: ignore[dict-item]
    (tmp_path / "small.yaml").write_text(json.dumps({**SPACE, "final": final}))
    command = ["search", "--space", str(tmp_path / "small.yaml"), "--target-latency", "1s", "--runtime", "null"]
    command += ["--trials", "2", "--against", "resnet20", "--run", str(tmp_path / "run"), "--finalist-seeds", "0"]
    assert main(command if is_in_file else [*command, "--final-branches", "2"]) == 0
    assert given.count(2) == 2, "the winner and its reference"
    assert set(given) == {0, 2}, "candidates train without"
    card = json.loads((tmp_path / "run/model/card.json").read_text())
    assert [phase["branches"] for phase in card["training"]] == [2]
    trained = parse_space("one", {**SPACE, "stages": [card["blocks"]["stages"][0][0]]}, "").decode({})
    assert card["params"] == sum(parameter.numel() for parameter in build(trained).parameters())
