from __future__ import annotations

import pytest

from nas.errors import SpaceError
from nas.utils.registry import closest, lookup, nearest


def test_the_closest_name_or_none() -> None:
    assert closest("mbcov", ["conv", "mbconv"]) == "mbconv"
    assert closest("xyz", ["conv", "mbconv"]) is None
    assert closest("xyz", []) is None


def test_an_unknown_name_lists_the_known_ones_if_none_is_close() -> None:
    assert nearest("mbcov", ["conv", "mbconv"]) == "; did you mean 'mbconv'?"
    assert nearest("xyz", ["means", "conv"]) == "; known: conv, means"
    assert nearest("xyz", []) == ""


def test_lookup_names_the_place_and_the_nearest_entry() -> None:
    assert lookup({"conv": 1}, "conv", "block") == 1
    with pytest.raises(SpaceError, match=r"^x\.yaml, stage 3: unknown block 'cnv'; did you mean 'conv'\?$") as caught:
        lookup({"conv": 1}, "cnv", "block", "x.yaml, stage 3", SpaceError)
    assert caught.value.where == "x.yaml, stage 3"
