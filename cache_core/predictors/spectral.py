"""A predictor that fits one smooth curve to all anchors so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecipeError
from .axis import Axis
from .base import OnAxis
from .polynomial import Lagrange


@dataclass(frozen=True, slots=True)
class Chebyshev(OnAxis):
    """Spectrum (arXiv:2603.01623): each coordinate is a series of Chebyshev polynomials, refitted by ridge regression.

    Minimises |T c - F|^2 + `ridge` |c|^2 over the last `window` anchors F, T their polynomials 0 to `degree` of time mapped
    from [0, 1] to [-1, 1]. That is linear in the anchors: one weight for each. `blend` is the share of the curve, the rest is
    the line through the last two anchors: the paper has 1, its authors' code since recommends 0.5 to 1.
    As in that code the constant is penalised too, so weights sum to less than 1 and a still feature shrinks, at few anchors by 15 %;
    `relative` fits the differences to the newest anchor instead and keeps constants. The authors count steps and take 50
    of them for the whole; here it is the schedule's number.
    """

    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    window: int = 100  # as many features are kept
    relative: bool = False
    axis: Axis = Axis.PROGRESS

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 8 or not self.ridge > 0.0 or not 0.0 <= self.blend <= 1.0 or self.window < 2:
            found = f"{self.degree}, {self.ridge}, {self.blend} and {self.window}"
            raise RecipeError(f"Chebyshev takes a degree from 0 to 8, a ridge above 0, a blend in [0, 1] and a window from 2, not {found}.")
        if self.axis is Axis.STEP:
            raise RecipeError("Chebyshev needs a time from 0 to 1: Axis.PROGRESS, or Axis.SIGMA for a flow model, not Axis.STEP.")

    @property
    def depth(self) -> int:
        return self.window

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        fit = self._fit(times, time)
        if self.relative:
            fit[-1] += 1.0 - sum(fit)
        line = [0.0] * (len(times) - 2) + Lagrange(1).weights(times[-2:], time)
        return [self.blend * a + (1.0 - self.blend) * b for a, b in zip(fit, line, strict=True)]

    def _fit(self, times: Sequence[float], time: float) -> list[float]:
        """Row T(time) (T^T T + ridge I)^-1 T^T: a weight for each anchor."""
        rows = [_chebyshev(2.0 * at - 1.0, self.degree) for at in times]
        size = range(self.degree + 1)
        gram = [[sum(row[i] * row[j] for row in rows) + self.ridge * (i == j) for j in size] for i in size]
        mix = _solve(gram, _chebyshev(2.0 * time - 1.0, self.degree))
        return [sum(a * b for a, b in zip(mix, row, strict=True)) for row in rows]


def _chebyshev(x: float, degree: int) -> list[float]:
    """T_0 to T_degree at `x`: T_(m+1) = 2 x T_m - T_(m-1)."""
    values = [1.0, x]
    for m in range(1, degree):
        values.append(2.0 * x * values[m] - values[m - 1])
    return values[: degree + 1]


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solution z of matrix z = right for a symmetric positive definite matrix: elimination needs no pivot there."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for k, pivot in enumerate(rows):
        for row in rows[k + 1 :]:
            factor = row[k] / pivot[k]
            row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    found: list[float] = []
    for k in reversed(range(len(rows))):
        known = sum(a * z for a, z in zip(rows[k][k + 1 : -1], reversed(found), strict=True))
        found.append((rows[k][-1] - known) / rows[k][k])
    return found[::-1]
