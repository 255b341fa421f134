"""Where a cached sampling's plan comes from: a calibration and a speed, a calibration and an error, or a plan as it is."""

from dataclasses import dataclass, field
from typing import Protocol

from ..errors import RecipeError
from ..masks import FEWEST, budget
from ..types import Schedule
from .calibration import Calibration, plan, refitted
from .fit import Plan

Known = dict[Schedule, Plan | None]


class Planner(Protocol):
    """Plans for schedules. All of them are remembered: asking again costs nothing."""

    def plan(self, schedule: Schedule) -> Plan | None:
        """The plan for `schedule`, or None to compute everything."""
        ...

    def amended(self, schedule: Schedule, computed: frozenset[int]) -> Plan | None:
        """A plan for a sampling that has to go by other steps than planned, or None if there is none."""
        ...

    def why(self, schedule: Schedule) -> str:
        """Why everything is computed, where there is no plan."""
        ...


@dataclass(frozen=True, slots=True)
class ForSpeed:
    """Computes the largest number of steps below total / `speed`: those of the calibration's best mask."""

    calibration: Calibration
    speed: float
    _known: Known = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.speed >= 1.0:
            raise RecipeError(f"A pace needs a speed of 1 (compute all) or more, not {self.speed}.")

    def plan(self, schedule: Schedule) -> Plan | None:
        if schedule not in self._known:
            count = budget(schedule.total, self.speed)
            self._known[schedule] = None if count == schedule.total else plan(self.calibration, schedule, count)
        return self._known[schedule]

    def why(self, schedule: Schedule) -> str:
        return f"{schedule.total} steps are too few to reuse any" if self.speed > 1.0 else "speed 1 computes all"

    def amended(self, schedule: Schedule, computed: frozenset[int]) -> Plan | None:
        return refitted(self.calibration, schedule, computed)


@dataclass(frozen=True, slots=True)
class ForQuality:
    """Computes the fewest steps whose expected error is at most `error`: distance of the final latents over their norm."""

    calibration: Calibration
    error: float
    _known: Known = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.error >= 0.0:
            raise RecipeError(f"An expected error is 0 (compute all) or more, not {self.error}.")

    def plan(self, schedule: Schedule) -> Plan | None:
        if schedule not in self._known:
            self._known[schedule] = self._cheapest(schedule)
        return self._known[schedule]

    def _cheapest(self, schedule: Schedule) -> Plan | None:
        if self.error > 0.0:
            for count in range(FEWEST, schedule.total):
                found = plan(self.calibration, schedule, count)
                if found.error <= self.error:
                    return found
        return None

    def why(self, schedule: Schedule) -> str:
        return f"an error of {self.error:g} needs all {schedule.total} steps"

    def amended(self, schedule: Schedule, computed: frozenset[int]) -> Plan | None:
        return refitted(self.calibration, schedule, computed)


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """One plan, for the schedule that it was made for."""

    only: Plan

    def plan(self, schedule: Schedule) -> Plan | None:
        return self.only

    def why(self, schedule: Schedule) -> str:
        return "there is a plan"

    def amended(self, schedule: Schedule, computed: frozenset[int]) -> Plan | None:
        return None
