"""The lengths of the final trainings: equal time for the winner and its references."""

from __future__ import annotations

import pytest

from nas.searching.budget.final_training import EPOCHS, Lengths, Timed
from nas.training.speed import TrainingSpeed
from nas.training.tasks.classification import Classification

DIGITS = Classification.load("digits")


def timed(*references: float) -> Timed:
    def speed(times: float) -> TrainingSpeed:
        return TrainingSpeed(64, {64: 1e-3 * times}, 1e-4 * times, 1e-4 * times)

    return Timed(speed(1.0), {str(times): speed(times) for times in references}, DIGITS)


def test_a_reference_gets_the_winners_time_and_at_most_its_epochs() -> None:
    networks = timed(0.5, 1.0, 5.0)
    for epochs in EPOCHS:
        found = networks.lengths(epochs, 1)
        assert found.winner == epochs
        assert found.references["0.5"] == found.references["1.0"] == epochs
        slow = found.references["5.0"]
        limit_s = 1.001 * networks.seconds(networks.winner, epochs)
        assert slow == 1 or networks.seconds(networks.references["5.0"], slow) <= limit_s
    assert networks.lengths(100, 1).references["5.0"] == 20


def test_a_reference_gets_at_least_the_shortest_training() -> None:
    assert timed(50.0).lengths(10, 4).references == {"50.0": 4}


def test_the_total_time_is_that_of_all_trainings() -> None:
    networks = timed(2.0)
    lengths = networks.lengths(40, 1)
    assert lengths.references == {"2.0": 20}
    both = networks.seconds(networks.winner, 40) + networks.seconds(networks.references["2.0"], 20)
    assert networks.total_s(lengths) == pytest.approx(both)


def test_lengths_are_stored_and_those_of_older_searches_are_read() -> None:
    lengths = Lengths(12, {"a": 3})
    assert Lengths.of(lengths.to_dict()) == lengths
    assert Lengths.of(7) == Lengths(7, {})
