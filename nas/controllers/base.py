"""What a controller is made for: the candidates of a search and its objective."""

from __future__ import annotations

from dataclasses import dataclass

from nas.spaces.encoding import EncodedSpace
from nas.study.objectives import Objective


@dataclass(frozen=True)
class Problem:
    """What a controller optimizes.

    Attributes:
        domain: The candidates, with the costs that are known without an evaluation.
        objective: What the search maximizes.
    """

    domain: EncodedSpace
    objective: Objective
