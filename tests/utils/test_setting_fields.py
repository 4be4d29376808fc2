"""Settings: bounds, formats, types and help texts come from the fields of a dataclass."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import pytest

from nas.cli.flags import add_groups, groups_of
from nas.errors import NasError, UsageError
from nas.searching.settings import SearchSettings
from nas.utils.settings import check_fields, check_types, setting, settings_of
from nas.utils.units import parse_duration


@dataclass(frozen=True)
class Example:
    rounds: int = setting(3, "number of rounds", group="how", minimum=1)
    mode: str = setting("slow", "slow or fast", group="how", choices=("slow", "fast"))
    limit: str = setting("", "time limit", group="how", metavar="T", parse=parse_duration)
    share: float = setting(0.5, "share of 100 %", group="what")
    names: str | list[str] | None = setting(None, "names", group="what", default_help="all")  # noqa: RUF009
    force: bool = setting(False, "do it", group="what")
    place: str | None = setting(None, "where", group="what", without_value="here")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"rounds": 0}, "--rounds: must be at least 1: 0"),
        ({"mode": "fats"}, "--mode: unknown mode 'fats'; did you mean 'fast'?"),
        ({"limit": "3"}, "--limit: must be a duration"),
    ],
)
def test_a_field_is_checked_by_its_own_rule(changed: dict[str, Any], line: str) -> None:
    check_fields(Example())
    check_fields(Example(**changed), without=tuple(changed))
    with pytest.raises(UsageError) as caught:
        check_fields(Example(**changed))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"runds": 1}, "x.yaml: unknown setting 'runds'; did you mean 'rounds'?"),
        ({"rounds": True}, "x.yaml: rounds must be of type int: True"),
        ({"names": [1]}, "x.yaml: names must be of type str: [1]"),
    ],
)
def test_a_file_is_checked_by_the_types_of_the_fields(values: dict[str, Any], line: str) -> None:
    check_types(Example, {"share": 1, "names": ["a", "b"], "place": "x"}, "x.yaml")
    with pytest.raises(NasError) as caught:
        check_types(Example, values, "x.yaml")
    assert str(caught.value) == line


def test_the_flags_come_from_the_fields() -> None:
    parser = argparse.ArgumentParser()
    add_groups(parser, groups_of(Example))
    help_text = parser.format_help()
    for part in ("how:", "--rounds N", "(default: 3)", "--limit T", "100 % (default: 0.5)", "--names NAME", "all)"):
        assert part in help_text
    assert not [value for value in vars(parser.parse_args([])).values() if value is not None]
    given = parser.parse_args(["--rounds", "2", "--share", "1", "--names", "a", "--names", "b", "--force", "--place"])
    assert (given.rounds, given.share, given.names, given.force, given.place) == (2, 1.0, ["a", "b"], True, "here")


def test_every_search_setting_has_help_and_a_group() -> None:
    found = list(settings_of(SearchSettings))
    assert len(found) == len(SearchSettings.__dataclass_fields__)
    assert all(each.help and each.group for each in found)
