"""When Skip-Cache computes the whole network."""

from dataclasses import dataclass

from ..errors import RecipeError
from ..policies.fixed import Fixed
from ..types import Observation, Verdict


@dataclass(frozen=True, slots=True)
class Cadence(Fixed):
    """Compute one evaluation in `every`, counted from the first of the sampling whatever guards compute besides.

    That is how the authors of Skip-DiT count (arXiv:2411.17616); `Interval` counts from the last one computed.
    """

    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecipeError(f"Cadence needs 1 (compute all) or more, not {self.every}.")

    def decide(self, seen: Observation) -> Verdict:
        place = seen.step.evaluation % self.every
        return Verdict(place > 0, f"{place} after a whole one, of {self.every}")
