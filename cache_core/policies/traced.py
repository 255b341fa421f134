"""The policies of TRACE: the mask of a calibration, and the one that computes all and collects what a calibration is made of."""

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import RecipeError
from ..masks import budget
from ..trace import Calibration, Trajectory, plan
from ..types import Observation, Schedule, Verdict
from .fixed import Fixed, Never


@dataclass(frozen=True, slots=True)
class Traced(Fixed):
    """Compute the largest number of steps below total / `speed`, those of `calibration`'s searched mask nearest to that share."""

    calibration: Calibration
    speed: float

    def __post_init__(self) -> None:
        if not self.speed >= 1.0:
            raise RecipeError(f"A pace needs a speed of 1 (compute all) or more, not {self.speed}.")

    def computed(self, schedule: Schedule) -> frozenset[int]:
        """The steps of `schedule` that are computed."""
        count = budget(schedule.total, self.speed)
        return frozenset(range(schedule.total)) if count == schedule.total else plan(self.calibration, schedule, count).computed

    def decide(self, seen: Observation) -> Verdict:
        schedule = seen.step.schedule
        if budget(schedule.total, self.speed) == schedule.total:
            small = self.speed > 1.0
            return Verdict(False, f"{schedule.total} steps are too few to reuse any" if small else "speed 1 computes all")
        reuse = seen.step.index not in self.computed(schedule)
        return Verdict(reuse, f"plan {'forecasts' if reuse else 'computes'} step {seen.step.index}")


@dataclass(frozen=True, slots=True, eq=False)
class Collected(Never):
    """Compute everything, and add each evaluation to the trajectory `into`."""

    into: Trajectory = field(kw_only=True)

    def settle(self, state: None, seen: Observation, output: Tensor | None) -> None:
        assert seen.x is not None, "collected at the site guided"
        assert output is not None, "everything is computed"
        self.into.add(seen.step.sigma, seen.x, output)
