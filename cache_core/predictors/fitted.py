"""The forecast of TRACE: weights on anchors and on the latent, fitted so that the sampling returns to the uncached trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..history import History
from ..measure import wide
from ..trace import Plan, Planner
from ..trace.fit import DEPTH
from ..trace.mixing import answer, table
from ..types import Observation, Schedule
from .base import Predictor
from .polynomial import Lagrange

LINE = Lagrange(1)


@dataclass(frozen=True, slots=True)
class Fitted(Predictor):
    """Answers with the weights of the planner's plan for the schedule at hand, at computed steps too.

    Where other steps than the plan's were computed (a guard wanted more), weights are fitted anew for those. Where the solver
    evaluates between the schedule's steps, forecasts are of order 1 and computed velocities pass as they are.
    """

    planner: Planner

    @property
    def depth(self) -> int:
        return DEPTH

    @property
    def corrects(self) -> bool:
        return True

    def macs(self, history: History, seen: Observation, x: Tensor) -> int:
        found = self._plan(history, seen)
        mixing = None if found is None else found.mixed(seen.step.index, x.shape[1])
        return 0 if mixing is None else mixing.size * x.numel() // x.shape[1]

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        plan = self._weighed(history, seen)
        return LINE.predict(history, seen, x) if plan is None else combine(history, plan, seen.step.index, x)

    def miss(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        if self._weighed(history, seen) is None:
            return LINE.miss(history, seen, x, feature)
        return Predictor.miss(self, history, seen, x, feature)

    def correct(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        found = self._plan(history, seen)
        if found is None or seen.step.index not in found.weights:
            return feature
        return combine(history, found, seen.step.index, x)

    def _weighed(self, history: History, seen: Observation) -> Plan | None:
        """The plan with weights for a forecast here; None where it is of order 1, as all exams of steps to be computed are."""
        plan, index = self.planner.plan(seen.step.schedule), seen.step.index
        if plan is None or index in plan.computed:
            return None
        found = self._plan(history, seen)
        return None if found is None or index not in found.weights or index in found.computed else found

    def _plan(self, history: History, seen: Observation) -> Plan | None:
        """The plan whose anchors are those in `history`: the planner's, or one amended to them."""
        schedule, index = seen.step.schedule, seen.step.index
        plan = self.planner.plan(schedule)
        steps = steps_of(history.times, schedule)
        if plan is None or steps is None or not on_step(seen.step.sigma, schedule.sigmas[index]):
            return None
        planned = plan.anchors.get(index, ())
        if planned == steps[-len(planned) :] or (index in plan.computed and steps[-1] != index):
            return plan
        before = {step for step in plan.computed if step < steps[0]}
        after = {step for step in plan.computed if step > max(index, steps[-1])}
        return self.planner.amended(schedule, frozenset({0} | before | after | set(steps)))


def steps_of(times: Sequence[float], schedule: Schedule) -> tuple[int, ...] | None:
    """The steps of `schedule` that start at the noise levels `times`, or None if none starts at one of them."""
    found = []
    for time in times:
        known = schedule.places.get(time)
        step = schedule.index(time) if known is None else known
        if not on_step(time, schedule.sigmas[step]):
            return None
        found.append(step)
    return tuple(found)


def on_step(sigma: float, start: float) -> bool:
    """Whether an evaluation at noise level `sigma` is one at the `start` of a step."""
    return abs(sigma - start) <= 1e-4 * sigma


def combine(history: History, plan: Plan, step: int, x: Tensor) -> Tensor:
    """Sum over bands of the anchors' and the latent's weighted parts, in float32, as `x` [B, C, (F,) H, W] in dtype and device."""
    latent = wide(x)
    made = _table(plan, step, latent)
    anchors = list(history.newest(len(plan.weights[step][0]) - 1, latent.dtype, latent.device))
    return answer([*reversed(anchors), latent], made, plan.levels).to(x.dtype)


def _table(plan: Plan, step: int, x: Tensor) -> Tensor:
    """What a step's answer is made by, where and as `x` is. It is remembered: the same plan serves many samplings."""
    key = step, x.shape[1], x.dtype, x.device
    made: Tensor | None = plan.memo.get(key)
    if made is None:
        made = plan.memo[key] = torch.from_numpy(table(np.array(plan.weights[step]), plan.mixed(step, x.shape[1]))).to(x)
    return made
