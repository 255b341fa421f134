"""Reach a wished speed-up with a published mask, fitted to the schedule at hand."""

from dataclasses import dataclass

from ..errors import RecipeError
from ..masks import PublishedMask, budget, nearest, rescale
from ..types import Observation, Schedule, Verdict
from .fixed import Fixed


@dataclass(frozen=True, slots=True)
class Paced(Fixed):
    """Compute the largest number of steps below total / `speed`, placed as the published mask nearest to that share.

    `speed` 1 computes everything. Schedules of `masks.FEWEST` steps and less are computed whole.
    """

    speed: float
    masks: tuple[PublishedMask, ...]

    def __post_init__(self) -> None:
        if not self.speed >= 1.0 or not self.masks:
            raise RecipeError(f"A pace needs a speed of 1 or more and a mask to go by, not {self.speed} and {self.masks}.")

    def computed(self, schedule: Schedule) -> frozenset[int]:
        """The steps of `schedule` that are computed."""
        count = budget(schedule.total, self.speed)
        return rescale(nearest(self.masks, count / schedule.total), schedule, count)

    def decide(self, seen: Observation) -> Verdict:
        schedule = seen.step.schedule
        computed = self.computed(schedule)
        if len(computed) == schedule.total:
            small = self.speed > 1.0
            return Verdict(False, f"{schedule.total} steps are too few to reuse any" if small else "speed 1 computes all")
        reuse = seen.step.index not in computed
        return Verdict(reuse, f"mask {'reuses' if reuse else 'computes'} step {seen.step.index}")
