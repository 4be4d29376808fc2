from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError

scalars = st.booleans() | st.integers(-5, 500) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
specs = st.builds(
    BlockSpec.of,
    st.sampled_from(["conv", "mbconv", "osa"]),
    st.dictionaries(st.sampled_from(["out_channels", "stride", "expand_ratio", "skip"]), scalars),
)
architectures = st.builds(
    Architecture,
    st.integers(1, 512),
    st.lists(st.lists(specs, max_size=3).map(tuple), max_size=4).map(tuple),
    specs,
)


@given(architectures)
def test_an_architecture_survives_its_json_form(arch: Architecture) -> None:
    again = Architecture.from_dict(arch.to_dict())
    assert again == arch
    assert again.digest == arch.digest
    assert hash(again) == hash(arch)


@given(architectures, architectures)
def test_digests_differ_where_the_json_forms_do(one: Architecture, other: Architecture) -> None:
    assert (one.digest == other.digest) == (repr(one.to_dict()) == repr(other.to_dict()))


def test_the_order_of_keywords_does_not_matter() -> None:
    assert BlockSpec.of("conv", {"stride": 2, "groups": 1}) == BlockSpec.of("conv", {"groups": 1, "stride": 2})


@pytest.mark.parametrize(
    "data", [{}, {"resolution": 32}, {"resolution": 32, "stages": 3, "head": {"block": "classifier"}},
             {"resolution": 32, "stages": [[{"op": "conv"}]], "head": {"block": "classifier"}},
             {"resolution": 32, "stages": [[{"block": "conv", "stride": [1]}]], "head": {"block": "classifier"}}],
)  # fmt: skip
def test_what_is_no_architecture_is_named(data: dict[str, object]) -> None:
    with pytest.raises(SpaceError, match="card"):
        Architecture.from_dict(data, "card")


def test_taps_and_a_neck_are_a_part_of_the_value() -> None:
    conv, head = BlockSpec.of("conv", {"out_channels": 8}), BlockSpec.of("classifier", {"num_classes": 2})
    plain = Architecture(32, ((conv,), (conv,)), head)
    assert plain.to_dict()["neck"] is None, "the digests of networks without a neck stay"
    assert "taps" not in plain.to_dict()
    detector = Architecture(32, ((conv,), (conv,)), head, (0, 1), ((conv, conv),))
    assert Architecture.from_dict(detector.to_dict()) == detector
    assert len({plain.digest, detector.digest, Architecture(32, plain.stages, head, (1,)).digest}) == 3
    assert list(detector.blocks()) == [conv] * 4
    assert detector.slots == ((conv,), (conv,), (conv, conv), (head,))


@pytest.mark.parametrize("taps", [[1, 0], [0], [-1, 1], [1, 2], [1, 1]])
def test_taps_are_stages_and_end_with_the_last(taps: list[int]) -> None:
    conv = BlockSpec.of("conv", {"out_channels": 8})
    data = Architecture(32, ((conv,), (conv,)), BlockSpec.of("features", {})).to_dict()
    with pytest.raises(SpaceError, match=r"card: taps: must be the numbers of stages in ascending order"):
        Architecture.from_dict({**data, "taps": taps}, "card")
