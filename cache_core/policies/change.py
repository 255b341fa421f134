"""Reuse while what the policy is shown has changed little (TeaCache, First-Block Cache, DBCache, DiCache)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import RecipeError
from ..measure import relative_l1
from ..types import Observation, Probe, Verdict
from .base import below, check_limit


def unlike(now: Tensor | None, then: Tensor | None) -> str | None:
    """Why two probes [B, ...] cannot be compared, or None if they can."""
    if now is None:
        return "nothing was shown to compare"
    if then is None:
        return "nothing to compare with yet"
    return None if now.shape == then.shape else f"shape {tuple(now.shape)} after {tuple(then.shape)}"


def kept(probe: Tensor | None) -> Tensor | None:
    """A copy: the host may write into what it showed."""
    return None if probe is None else probe.detach().clone() if probe.requires_grad else probe.clone()


@dataclass(frozen=True, slots=True)
class Change:
    """Reuse while the probe's relative L1 change since the last computed evaluation stays under `threshold`.

    First-Block Cache (Comfy-WaveSpeed) and DBCache (cache-dit): |p_t - p_a|_1 / |p_a|_1 < threshold, p the residual of the
    blocks that always run and a the last computed evaluation; nothing is summed. Typical: 0.05 to 0.15.
    As theirs and diffusers', p has the picture tokens alone, though the residual of the text tokens is reused as well. What is
    not a number computes (diffusers reuses there), and a threshold of 0 computes everything.
    """

    threshold: float
    probe: Probe = Probe.FIRST_BLOCK

    def __post_init__(self) -> None:
        check_limit("Change", "threshold", self.threshold)

    def init(self) -> Tensor | None:
        return None

    def propose(self, state: Tensor | None, seen: Observation) -> tuple[Verdict, Tensor | None]:
        reason = unlike(seen.probe, state)
        if seen.probe is None or state is None or reason is not None:
            return Verdict(False, reason or ""), state
        return below("change", relative_l1(seen.probe, state), self.threshold), state

    def settle(self, state: Tensor | None, seen: Observation, output: Tensor | None) -> Tensor | None:
        return state if output is None else kept(seen.probe)


@dataclass(slots=True)
class DriftState:
    """What was shown last [B, ...], and the changes summed since the last computed evaluation."""

    last: Tensor | None = None
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Reuse while the changes from evaluation to evaluation, summed since the last computed one, stay under `threshold`.

    TeaCache (arXiv:2411.19108), eq. 4, summed as in the authors' code: f(|m_t - m_{t-1}|_1 / |m_{t-1}|_1), m the first
    block's modulated input and f the `polynomial`, highest power first, from a change of the input to one of the output. On
    Wan m is the time embedding, or, with ret_steps, its projection, so that its schedule follows from the noise levels alone.
    Where f falls under 0 the sum shrinks, and their thresholds are made for that; `signed` off sums |f|, as ComfyUI-TeaCache
    does for FLUX, and is the safe choice for a model that f was not fitted on: there the sum may fall and never come back.

    DiCache (arXiv:2508.17356), Online Probe Profiling: no polynomial, `of` "input". It compares the picture tokens after the
    blocks that always run: at the site STACK that is the site's input, while the probe beside it is what those blocks added.
    """

    threshold: float
    probe: Probe = Probe.MODULATED
    polynomial: tuple[float, ...] = (1.0, 0.0)
    of: Literal["probe", "input"] = "probe"
    signed: bool = True

    def __post_init__(self) -> None:
        check_limit("Drift", "threshold", self.threshold)
        if not self.polynomial or not all(map(math.isfinite, self.polynomial)):
            raise RecipeError(f"Drift needs a polynomial of finite coefficients, not {self.polynomial}; (1, 0) changes nothing.")

    def init(self) -> DriftState:
        return DriftState()

    def propose(self, state: DriftState, seen: Observation) -> tuple[Verdict, DriftState]:
        now = seen.probe if self.of == "probe" else seen.x
        reason = unlike(now, state.last)
        if now is None or state.last is None or reason is not None:
            return Verdict(False, reason or ""), DriftState(kept(now), state.total)
        change = horner(self.polynomial, relative_l1(now, state.last))
        total = state.total + (change if self.signed else abs(change))
        return below("summed change", total, self.threshold), DriftState(kept(now), total)

    def settle(self, state: DriftState, seen: Observation, output: Tensor | None) -> DriftState:
        return state if output is None else DriftState(state.last)


def horner(coefficients: Sequence[float], x: float) -> float:
    """The polynomial with these coefficients, highest power first, at x."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
