"""The forecast of TRACE: weights on anchors and on the latent, fitted so that the sampling returns to the uncached trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..history import History
from ..masks import budget
from ..trace import Calibration, Plan, plan
from ..trace.bands import join
from ..trace.fit import DEPTH
from ..types import Observation
from .base import Predictor
from .polynomial import Lagrange


@dataclass(frozen=True, slots=True)
class Fitted(Predictor):
    """Answers with the weights of `calibration`'s plan for the schedule at hand and for `speed`, at computed steps too.

    Where the steps computed so far are not the plan's (a guard computed more, the sampler evaluates between steps), its
    weights are not for them: forecasts are of order 1 then, and computed velocities pass as they are.
    """

    calibration: Calibration
    speed: float

    @property
    def depth(self) -> int:
        return DEPTH

    @property
    def corrects(self) -> bool:
        return True

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        found = self._weights(history, seen)
        if found is None:
            return Lagrange(1).predict(history, seen, x)
        plan_, weights = found
        return combine(history, weights, x, plan_.levels)

    def correct(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        found = self._weights(history, seen)
        return feature if found is None else combine(history, found[1], x, found[0].levels)

    def _weights(self, history: History, seen: Observation) -> tuple[Plan, Sequence[Sequence[float]]] | None:
        """The plan's weights at this step, if the anchors are those they were fitted for."""
        schedule, index = seen.step.schedule, seen.step.index
        count = budget(schedule.total, self.speed)
        if count == schedule.total:
            return None
        plan_ = plan(self.calibration, schedule, count)
        wanted = tuple(schedule.sigmas[step] for step in plan_.anchors.get(index, ()))
        times = history.times[-DEPTH:]
        fits = len(wanted) == len(times) and all(abs(a - b) <= 1e-4 * a for a, b in zip(wanted, times, strict=True))
        on_step = abs(seen.step.sigma - schedule.sigmas[index]) <= 1e-4 * seen.step.sigma
        return (plan_, plan_.weights[index]) if fits and on_step else None


def combine(history: History, weights: Sequence[Sequence[float]], x: Tensor, levels: Sequence[int]) -> Tensor:
    """Sum over bands of the anchors' and the latent's weighted parts, in float32, as `x` [B, C, (F,) H, W] in dtype and device."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    parts = [history.combine(row[:-1], wide).add_(wide, alpha=row[-1]) for row in weights]
    return join(parts, levels).to(x.dtype)
