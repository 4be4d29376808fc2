from __future__ import annotations

import pickle

import pytest

from nas.errors import NOT_GIVEN, NasError, SpaceError, UsageError, one_line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NasError("is broken"), "is broken"),
        (UsageError("must be at least 1", key="proxy_epochs", value=0), "--proxy-epochs: must be at least 1: 0"),
        (
            SpaceError("unknown block", where="x.yaml", key="stage 3", value="con", nearest="; did you mean 'conv'?"),
            "x.yaml: stage 3: unknown block: 'con'; did you mean 'conv'?",
        ),
    ],
)
def test_a_message_has_the_parts_that_were_given(error: NasError, message: str) -> None:
    assert str(error) == message


def test_an_error_keeps_its_fields_on_the_way_from_another_process() -> None:
    error = UsageError("must be at least 1", key="trials", value=0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key, again.value) == (str(error), "trials", 0)
    assert NasError("x").value is NOT_GIVEN


def test_a_message_of_many_lines_becomes_one_short_line() -> None:
    assert one_line(RuntimeError("first\n\tsecond  third\n")) == "first second third"
    assert one_line(RuntimeError()) == ""
    long = one_line("x" * 400)
    assert len(long) == 300 and long.endswith("x...")
