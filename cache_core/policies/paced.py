"""Published masks, fitted to the schedule at hand: for a wished speed-up, or one mask at its own."""

from dataclasses import dataclass, field

from ..errors import RecipeError
from ..masks import FEWEST, PublishedMask, budget, nearest, rescale
from ..types import Observation, Schedule, Verdict
from .fixed import Fixed


@dataclass(frozen=True, slots=True)
class Paced(Fixed):
    """Compute the largest number of steps below total / `speed`, placed as the published mask nearest to that share.

    `speed` 1 computes everything. Schedules of `masks.FEWEST` steps and less are computed whole.
    """

    speed: float
    masks: tuple[PublishedMask, ...]
    _known: dict[Schedule, frozenset[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.speed >= 1.0 or not self.masks:
            raise RecipeError(f"A pace needs a speed of 1 or more and a mask to go by, not {self.speed} and {self.masks}.")

    def computed(self, schedule: Schedule) -> frozenset[int]:
        """The steps of `schedule` that are computed."""
        found = self._known.get(schedule)
        if found is None:
            count = budget(schedule.total, self.speed)
            found = self._known[schedule] = rescale(nearest(self.masks, count / schedule.total), schedule, count)
        return found

    def decide(self, seen: Observation) -> Verdict:
        schedule = seen.step.schedule
        computed = self._known.get(schedule) or self.computed(schedule)
        if len(computed) == schedule.total:
            small = self.speed > 1.0
            return Verdict(False, f"{schedule.total} steps are too few to reuse any" if small else "speed 1 computes all")
        reuse = seen.step.index not in computed
        return Verdict(reuse, f"mask {'reuses' if reuse else 'computes'} step {seen.step.index}")


@dataclass(frozen=True, slots=True)
class Carried(Fixed):
    """Compute the steps of one published `mask`: itself on a schedule of as many steps, else its share, placed alike along sigma.

    Authors count steps whatever the time shift, and so does this on a whole schedule of the mask's length. Image to image
    and the experts of Wan 2.2 see a part of the noise levels; there the mask is looked up by level (`masks.rescale`).
    """

    mask: PublishedMask

    def computed(self, schedule: Schedule) -> frozenset[int]:
        """The steps of `schedule` that are computed."""
        mask, total = self.mask, schedule.total
        whole = schedule.sigmas[0] > mask.sigma(1) and schedule.sigmas[-1] < mask.sigma(mask.total - 1)
        if whole and total == mask.total:
            return frozenset(mask.computed)
        return rescale(mask, schedule, min(max(round(mask.share * total), FEWEST), total))

    def decide(self, seen: Observation) -> Verdict:
        reuse = seen.step.index not in self.computed(seen.step.schedule)
        return Verdict(reuse, f"{self.mask.name} {'reuses' if reuse else 'computes'} step {seen.step.index}")
