"""Reuse while two forecasts of neighbouring orders agree, as an embedded pair of an ODE solver (ours; needs no probe)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RecipeError
from ..measure import mean_abs
from ..types import Observation, Probe, Verdict
from .base import below, check_limit


@dataclass(frozen=True, slots=True)
class EmbeddedState:
    """Noise levels and outputs [B, ...] of the newest computed evaluations, newest first."""

    times: tuple[float, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    bend: float | None = None  # mean|divided difference of order p| / mean|newest output|; None = too few outputs


@dataclass(frozen=True, slots=True)
class Embedded:
    """Reuse while the forecasts of order p and p - 1 through the last outputs differ by less than `tolerance` of the output.

    An embedded error pair (Hairer, Norsett, Wanner, Solving ODEs I, II.4) for extrapolation in sigma. By Newton's form the
    two differ by v[s_0 .. s_p] (s - s_0) ... (s - s_{p-1}), s_0 the newest noise level; so the tensors are looked at when
    an output comes, and asking costs a few multiplications. The difference is the error of order p - 1: take `order` one
    above the predictor's, or the same to be careful only about what the predictor leaves out of account anyway.
    """

    tolerance: float
    order: int = 1

    def __post_init__(self) -> None:
        check_limit("Embedded", "tolerance", self.tolerance)
        if not 1 <= self.order <= 4:
            raise RecipeError(f"Embedded compares orders p and p - 1 for p from 1 to 4, not {self.order}; 2 suits an order-1 forecast.")

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> EmbeddedState:
        return EmbeddedState()

    def propose(self, state: EmbeddedState, seen: Observation) -> tuple[Verdict, EmbeddedState]:
        if state.bend is None:
            return Verdict(False, f"{len(state.times)} of {self.order + 1} outputs computed"), state
        estimate = state.bend * math.prod(abs(seen.step.sigma - time) for time in state.times[: self.order])
        return below(f"orders {self.order} and {self.order - 1} differ by", estimate, self.tolerance), state

    def settle(self, state: EmbeddedState, seen: Observation, output: Tensor | None) -> EmbeddedState:
        if output is None:
            return state
        old = [(time, y) for time, y in zip(state.times, state.outputs, strict=True) if time != seen.step.sigma]
        times = (seen.step.sigma, *(time for time, _ in old))[: self.order + 1]
        outputs = (output.detach().clone(), *(y for _, y in old))[: self.order + 1]
        return EmbeddedState(times, outputs, _bend(times, outputs) if len(times) > self.order else None)


def _bend(times: tuple[float, ...], outputs: tuple[Tensor, ...]) -> float:
    """Mean size of the divided difference of all `outputs` at `times`, relative to that of the first output."""
    wide = torch.promote_types(outputs[0].dtype, torch.float32)
    total = torch.zeros_like(outputs[0], dtype=wide)
    for time, output in zip(times, outputs, strict=True):
        total.add_(output.to(wide), alpha=1.0 / math.prod(time - other for other in times if other != time))
    size = mean_abs(outputs[0])
    return mean_abs(total) / size if size > 0.0 else math.inf
