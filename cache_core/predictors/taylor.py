"""Predictors that put finite differences for derivatives, as published."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecipeError
from .axis import Axis
from .base import OnAxis
from .polynomial import apart, spread


def differences(times: Sequence[float]) -> list[list[float]]:
    """Row j: the j-th finite difference at the newest anchor, as weights of the anchors at `times`, oldest first.

    Each is the change of the one before it over the newest gap alone, as in TaylorSeer (arXiv:2503.06923). On equal gaps
    that is a derivative as it was half a gap ago and more; on uneven ones, beyond the first, it is none.
    """
    count = len(times)
    rows: list[list[float]] = []
    for k in range(count):
        newer = [[float(k == i) for i in range(count)]]
        for older in rows:
            newer.append([(a - b) / (times[k] - times[k - 1]) for a, b in zip(newer[-1], older, strict=True)])
        rows = newer
    return rows


def expand(times: Sequence[float], terms: Sequence[float]) -> list[float]:
    """Weights of the sum over j of terms[j] times the j-th difference."""
    rows = differences(times)
    return [sum(term * row[k] for term, row in zip(terms, rows, strict=False)) for k in range(len(times))]


@dataclass(frozen=True, slots=True)
class Taylor(OnAxis):
    """TaylorSeer (arXiv:2503.06923), eq. 8, as published: sum of difference j times ahead^j / j!.

    Its order 2 is not the parabola through the anchors: prefer `Lagrange`, and this one to reproduce published results.
    The authors count steps on the `axis` (Axis.STEP); on equal steps of sigma that is the same forecast. Fewer anchors
    give a lower order, and so do anchors too close together (`polynomial.apart`), which the paper has none of.
    diffusers' lite mode forecasts what the last layer gave, modulated for an older step, and keeps anchors in bfloat16; at the
    site STACK the present step modulates what is forecast, and anchors are kept as they come.
    """

    order: int
    axis: Axis = Axis.SIGMA

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise RecipeError(f"Taylor takes an order from 0 to 4, not {self.order}; its paper uses 1 and 2.")

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        taken = apart(times, time)
        ahead = time - times[-1]
        terms = [ahead**j / math.factorial(j) for j in range(len(taken))]
        return spread(expand([times[k] for k in taken], terms), taken, len(times))


@dataclass(frozen=True, slots=True)
class Hermite(OnAxis):
    """HiCache (arXiv:2508.16984), as published: `Taylor` with s^j H_j(s ahead) in place of ahead^j, `scale` s.

    H_j are the physicists' polynomials of Hermite. The unit of time matters (H_2 has a constant term), so time is counted in
    steps as the authors do. A line is forecast with the slope 2 s^2, exactly at s = 0.71 only: order 1 at the published
    0.5 goes half the way.
    """

    order: int
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4 or not 0.0 < self.scale <= 1.0:
            raise RecipeError(f"Hermite takes an order from 0 to 4 and a scale in (0, 1], not {self.order} and {self.scale}.")

    @property
    def axis(self) -> Axis:
        return Axis.STEP

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        taken = apart(times, time)
        values = _hermite(self.scale * (time - times[-1]), len(taken))
        terms = [self.scale**j * value / math.factorial(j) for j, value in enumerate(values)]
        return spread(expand([times[k] for k in taken], terms), taken, len(times))


def _hermite(x: float, count: int) -> list[float]:
    """H_0 to H_(count - 1) at `x`: H_(j+1) = 2 x H_j - 2 j H_(j-1)."""
    values = [1.0, 2.0 * x]
    for j in range(1, count - 1):
        values.append(2.0 * x * values[j] - 2.0 * j * values[j - 1])
    return values[:count]
