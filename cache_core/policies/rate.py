"""Reuse while the output must have changed little, going by how much the input did (EasyCache)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..measure import mean_abs, mean_change
from ..types import Observation, Probe, Verdict
from .base import below, check_limit
from .change import kept, unlike


@dataclass(slots=True)
class RateState:
    """Input of the last evaluation; input, output and output's mean size of the last computed one; all None = unknown.

    `moved` is the input's mean change at the last evaluation.
    """

    last: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    size: float = 0.0
    rate: float | None = None  # change of the output for a change of the input
    total: float = 0.0
    moved: float | None = None


@dataclass(frozen=True, slots=True)
class OutputRate:
    """Reuse while the changes that the output must have made since it was computed sum up to less than `threshold`.

    EasyCache (arXiv:2507.02860), eq. 6-8: the rate k = |v_a - v_b|_1 / |x_a - x_b|_1 of the last two computed evaluations, a
    and b, holds until the next; each evaluation adds k |x_t - x_{t-1}|_1 / |v_a|_1.

    The host's own nodes differ, and tests/test_host_rivals.py shows each difference. They take |x_t - x_a| and so count
    early moves again and again; ours is the paper's, and the authors' code. They look at one pixel in 64 and miss what
    happens between; ours looks at all. They go by the negative prompt alone; ours needs every condition to agree, since all
    of them are forecast. LazyCache keeps x0 - x = -sigma v, which is too large a step later; ours keeps the velocity.

    Whatever is missing is unknown, never 0: before two computed evaluations, after another shape, where the input did not
    move or the output is 0, there is no rate, and it computes. (The host's nodes take 0 there, and never compute again.)
    """

    threshold: float
    probe: Probe = Probe.LATENT

    def __post_init__(self) -> None:
        check_limit("OutputRate", "threshold", self.threshold)

    def init(self) -> RateState:
        return RateState()

    def propose(self, state: RateState, seen: Observation) -> tuple[Verdict, RateState]:
        known, reason = self._known(state, seen.probe), unlike(seen.probe, state.last)
        if seen.probe is None or state.last is None or reason is not None:
            return Verdict(False, reason or ""), known
        moved = known.moved = mean_change(seen.probe, state.last)
        if state.rate is None:
            return Verdict(False, "no rate known yet"), known
        if moved == 0.0 or state.size == 0.0:
            return Verdict(False, f"the rate tells nothing: input moved by {moved:.3g}, output of size {state.size:.3g}"), known
        known.total += state.rate * moved / state.size
        return below("output change", known.total, self.threshold), known

    def settle(self, state: RateState, seen: Observation, output: Tensor | None) -> RateState:
        if output is None:
            return state
        x = state.last  # what was shown, kept by `propose`
        return RateState(x, x, kept(output), mean_abs(output), _rate(state, x, output, state.moved if seen.age == 0 else None))

    @staticmethod
    def _known(state: RateState, probe: Tensor | None) -> RateState:
        """What is known once `probe` was shown."""
        return RateState(kept(probe), state.x, state.y, state.size, state.rate, state.total)


def _rate(state: RateState, x: Tensor | None, y: Tensor, moved: float | None) -> float | None:
    """Change of the output for a change of the input since the last computed evaluation, `moved` if known; None = unknown."""
    if x is None or state.x is None or state.y is None or unlike(x, state.x) or unlike(y, state.y):
        return None
    moved = mean_change(x, state.x) if moved is None else moved
    rate = mean_change(y, state.y) / moved if moved > 0.0 else math.inf
    return rate if math.isfinite(rate) else None
