"""The policies of TRACE: a plan's mask with a guard, and those that record what a calibration is made of."""

from dataclasses import dataclass, field

from torch import Tensor

from ..measure import Ratio
from ..trace import Plan, Planner, Trajectory
from ..types import Observation, Probe, Schedule, Verdict
from .fixed import Never

ALARM = 3.0  # times the expected error of an order-1 forecast at a computed step, where a plan does not know how far its exams spread


@dataclass(frozen=True, slots=True)
class Exam:
    """The newest computed step and the error that an order-1 forecast of it had, on its device."""

    step: int
    error: Ratio


@dataclass(frozen=True, slots=True)
class Traced:
    """Compute the steps of the planner's plan, and the step after one whose exam went wrong.

    Closed loop: at every computed step an order-1 forecast is examined, as `Plan.exams` expects it. An error so many times the
    expected one as `Plan.alarm` says, or `alarm` where a plan does not know, tells that this picture moves in other ways than the
    calibration's, and the next step, which the plan would forecast, is computed. `alarm` 0 leaves the guard out.
    """

    planner: Planner
    alarm: float = ALARM

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> Exam | None:
        return None

    def propose(self, state: Exam | None, seen: Observation) -> tuple[Verdict, Exam | None]:
        schedule, step = seen.step.schedule, seen.step.index
        plan = self.planner.plan(schedule)
        if plan is None:
            return Verdict(False, self.planner.why(schedule)), None
        if step in plan.computed:
            return Verdict(False, f"plan computes step {step}"), None
        excess = self._excess(plan, state)
        if excess > 1.0:
            assert state is not None, "there was an exam"
            return Verdict(False, f"step {state.step} was {excess * self._limit(plan):.1f} times as far off as expected", excess), None
        return Verdict(True, f"plan forecasts step {step}", excess or None), None

    def settle(self, state: Exam | None, seen: Observation, output: Tensor | None) -> Exam | None:
        return None if output is None or seen.error is None else Exam(seen.step.index, seen.error)

    def computed(self, schedule: Schedule) -> frozenset[int]:
        """The steps of `schedule` that are computed if the guard is never heard."""
        plan = self.planner.plan(schedule)
        return frozenset(range(schedule.total)) if plan is None else plan.computed

    def _excess(self, plan: Plan, exam: Exam | None) -> float:
        """The exam's error over the limit; 0 without an exam, or where none was expected."""
        if exam is None or self.alarm <= 0.0 or plan.exams.get(exam.step, 0.0) <= 0.0:
            return 0.0
        return float(exam.error) / (self._limit(plan) * plan.exams[exam.step])

    def _limit(self, plan: Plan) -> float:
        """How many times as large as expected an exam has to be."""
        return plan.alarm or self.alarm


@dataclass(frozen=True, slots=True, eq=False)
class Collected(Never):
    """Compute everything, and add each evaluation to the trajectory `into`."""

    into: Trajectory = field(kw_only=True)

    def settle(self, state: None, seen: Observation, output: Tensor | None) -> None:
        assert seen.x is not None, "collected at the site guided"
        assert output is not None, "everything is computed"
        self.into.add(seen.step.sigma, seen.x, output)
