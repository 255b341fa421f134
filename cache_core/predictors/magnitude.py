"""A predictor that knows how the size of a feature changes over the sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..tables.curves import Curve
from ..types import Step
from .base import Weighted


@dataclass(frozen=True, slots=True)
class Scaled(Weighted):
    """The last residual, made as large as it would be by now: times the product of gamma over the steps since.

    MagCache (arXiv:2506.09045): gamma_t = mean(|r_t| / |r_(t-1)|), the ratio of the residual's norm to that at the step before,
    `curve` for each step of one run. The paper takes the product, less 1, for the error of reuse, and its code reuses the
    residual as it is all the same: `scale` off. On another schedule the size is looked up by noise level, between two steps
    of the curve in the logarithm, so that fewer steps make larger changes; the authors take the gamma of the nearest step.
    """

    curve: Curve
    scale: bool = True

    @property
    def depth(self) -> int:
        return 1

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        return [self._size(step.sigma) / self._size(times[-1]) if self.scale else 1.0]

    def _size(self, sigma: float) -> float:
        """Norm of the residual at noise level `sigma`, relative to that at the curve's first step."""
        curve, level = self.curve, min(sigma, 1.0)
        time = level / (curve.shift - (curve.shift - 1.0) * level)
        place = min((1.0 - time) * curve.total, curve.total - 1.0)
        whole = math.floor(place)
        after: float = curve.ratios[whole + 1] ** (place - whole) if place > whole else 1.0
        return math.prod(curve.ratios[1 : whole + 1]) * after
