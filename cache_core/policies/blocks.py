"""The policy of Block Caching: each block computes the steps that its schedule gives it."""

from dataclasses import dataclass
from functools import lru_cache

from ..blockcache.schedule import BlockSchedule
from ..errors import RecipeError
from ..types import Observation, Probe, Schedule, Verdict
from .fixed import Fixed, Never


@lru_cache(maxsize=64)
def carried(schedule: BlockSchedule, onto: Schedule) -> tuple[frozenset[int], ...]:
    """The steps of `onto` that each block computes."""
    return schedule.at(onto)


@dataclass(frozen=True, slots=True)
class Scheduled(Fixed):
    """Compute each block at the steps of `schedule` (arXiv:2312.03209), carried over to the sampling's own steps.

    Outside of the network, where there are no blocks, the cached block that computes the most steps is followed.
    """

    schedule: BlockSchedule

    def decide(self, seen: Observation) -> Verdict:
        rows = carried(self.schedule, seen.step.schedule)
        index = seen.place.index if seen.place else max(self.schedule.cached, key=lambda block: len(rows[block]), default=0)
        if index >= len(rows):
            raise RecipeError(
                f"The schedule {self.schedule.name!r} is of a model with {len(rows)} blocks, and this one has a block {index + 1}. "
                "Profile this model and make a schedule of it."
            )
        reuse = seen.step.index not in rows[index]
        return Verdict(reuse, f"schedule {'reuses' if reuse else 'computes'} step {seen.step.index}")


@dataclass(frozen=True, slots=True)
class Shown(Never):
    """Compute everything, and have a probe shown to those who look on."""

    shown: Probe = Probe.NOTHING

    @property
    def probe(self) -> Probe:
        return self.shown
