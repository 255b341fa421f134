"""Compute at intervals that grow as the sampling goes on (Spectrum)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import RecipeError
from ..types import Observation, Probe, Verdict


@dataclass(frozen=True, slots=True)
class Growing:
    """Compute one evaluation in floor(`window` + `growth` k), k those computed so far after the first `warmup`, and these.

    Spectrum (arXiv:2603.01623), section 3.4, in the form of the authors' code: window 2 and growth 0.75, or 3 for higher speed;
    each evaluation computed after the warm-up makes the window wider by `growth`. Growth 0 is `Interval` after a `Warmup`.
    """

    window: float
    growth: float
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 1.0 <= self.window < math.inf or not 0.0 <= self.growth < math.inf or self.warmup < 0:
            found = f"{self.window}, {self.growth} and {self.warmup}"
            raise RecipeError(f"Growing takes a window from 1 (compute all), a growth from 0 and a warm-up from 0, not {found}.")

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> int:
        """Evaluations computed after the warm-up: none."""
        return 0

    def propose(self, state: int, seen: Observation) -> tuple[Verdict, int]:
        done = seen.step.evaluation
        if done < self.warmup:
            return Verdict(False, f"warm-up {done + 1} of {self.warmup}"), state
        every = math.floor(self.window + self.growth * state)
        return Verdict(seen.age + 1 < every, f"{seen.age + 1} of {every}"), state

    def settle(self, state: int, seen: Observation, output: Tensor | None) -> int:
        return state + (output is not None and seen.step.evaluation >= self.warmup)
