"""Reuse by the errors that forecasts really had: every computed evaluation is a free exam (ours; needs no probe)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import RecipeError
from ..types import Observation, Probe, Verdict
from .base import below, check_limit


@dataclass(frozen=True, slots=True)
class ExamState:
    """Noise level of the last computed evaluation, what the last exam found, and the error expected since."""

    time: float | None = None
    rate: float | None = None  # relative error for a distance in sigma of 1; None = no exam yet
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class AccumulatedError:
    """Reuse while the errors expected of the forecasts since the last computed evaluation sum up to less than `tolerance`.

    Closed loop: where an evaluation is computed, the recipe's own predictor is examined, with the anchors it had (`seen.error`,
    relative L2). An error e found at distance d from the newest anchor gives the rate e / d^power, and a forecast at distance
    d' is expected to err by rate d'^power. `power` is the predictor's order + 1: 1 for Hold, 2 for a line. The sum
    over a run of rho_n (s_a - s_n)^power is the cost that Golden Path (arXiv:2609.39343) gives it; here rho is measured on
    the picture being made. Exams in the warm-up are close to the anchor and the first to count: take two steps or more.
    """

    tolerance: float
    power: float = 1.0

    def __post_init__(self) -> None:
        check_limit("AccumulatedError", "tolerance", self.tolerance)
        if not 0.0 < self.power <= 8.0:
            raise RecipeError(f"AccumulatedError needs a power above 0 and up to 8, not {self.power}; 1 suits Hold, 2 a line.")

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> ExamState:
        return ExamState()

    def propose(self, state: ExamState, seen: Observation) -> tuple[Verdict, ExamState]:
        if state.time is None or state.rate is None:
            return Verdict(False, "no forecast examined yet"), state
        total = state.total + state.rate * abs(seen.step.sigma - state.time) ** self.power
        return below("expected error", total, self.tolerance), ExamState(state.time, state.rate, total)

    def settle(self, state: ExamState, seen: Observation, output: Tensor | None) -> ExamState:
        return state if output is None else ExamState(seen.step.sigma, self._rate(state, seen))

    def _rate(self, state: ExamState, seen: Observation) -> float | None:
        """What this exam found; one without a distance, or none, changes nothing; one that is not a number, all."""
        if seen.error is None or state.time is None or seen.step.sigma == state.time:
            return state.rate
        rate = float(seen.error) / abs(seen.step.sigma - state.time) ** self.power
        return rate if math.isfinite(rate) else None
