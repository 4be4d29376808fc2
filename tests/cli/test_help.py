"""The short help of commands with many flags, and the full one."""

from __future__ import annotations

import argparse
import re

import pytest

from nas.cli import scale, search, train
from nas.cli.flags import short_help
from nas.cli.main import main, name_of
from nas.searching.settings import SearchSettings
from nas.utils.settings import settings_of

SHORT = (search, scale, train)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def flags_in(text: str) -> set[str]:
    """Return the flags that have a line of their own."""
    return {flag for line in text.splitlines() for flag in re.findall(r"^  (?:-h, )?(--[a-z-]+)", line)}


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_search_shows_what_most_people_need(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "search", flag)
    expected = {"--target-latency", "--data", "--space", "--objective", "--device", "--runtime", "--run", "--seed"}
    common = {"--help", "--help-all", "--json", "--quiet"}
    assert expected | common <= flags_in(text)
    assert flags_in(text) <= expected | common | {"--budget", "--against", "--resolution"}
    assert len(re.findall(r"^  nas search --target-latency 20ms", text, re.MULTILINE)) == 2
    assert "--help-all shows all" in text


def test_all_flags_of_a_search_are_in_the_full_help(capsys: pytest.CaptureFixture[str]) -> None:
    every = {setting.flag for setting in settings_of(SearchSettings)}
    text = printed(capsys, "search", "--help-all")
    assert flags_in(text) == every | {"--help", "--help-all", "--json", "--quiet"}
    assert "FILE" in text


@pytest.mark.parametrize("command", SHORT)
def test_the_most_used_flags_exist_and_are_shown_first(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = name_of(command)  # type: ignore[arg-type]
    short, full = (printed(capsys, name, flag) for flag in ("--help", "--help-all"))
    assert flags_in(short) < flags_in(full)
    known = {f"--{each.replace('_', '-')}" for each in command.MOST_USED}  # type: ignore[attr-defined]
    assert known & flags_in(full) == flags_in(short) - {"--help", "--help-all", "--json", "--quiet"}
    assert known - flags_in(full) <= {"--budget", "--against", "--resolution"}
    count = re.search(r"most used of (\d+) flags", short)
    assert count is not None
    assert int(count[1]) == len(flags_in(full))
    for example in command.EXAMPLES:  # type: ignore[attr-defined]
        assert f"  {example}\n" in short
        flags = re.findall(r"--[a-z-]+", example)
        assert set(flags) <= flags_in(full)


def test_names_that_a_command_lacks_are_ignored_and_the_order_is_that_of_the_names() -> None:
    parser = argparse.ArgumentParser(prog="nas x", description="does x", add_help=False)
    for flag in ("--one", "--two", "--three-four"):
        parser.add_argument(flag, metavar="N", help=f"help of {flag}")
    text = short_help(parser, ("three_four", "budget", "one"), ("nas x --one 1",))
    assert re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE) == ["--three-four", "--one"]
    assert text.startswith("usage: nas x [flags]\n\ndoes x\n\nexamples:\n  nas x --one 1\n\n")


def test_other_commands_keep_one_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--help-all" not in printed(capsys, "export", "--help")
