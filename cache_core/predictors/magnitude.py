"""A predictor that knows how the size of a feature changes over the sampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..errors import RecipeError
from ..types import Schedule, Step
from .axis import position
from .base import Weighted


@dataclass(frozen=True, slots=True)
class Scaled(Weighted):
    """The last residual, made as large as it would be by now: times the product of gamma over the steps since.

    MagCache (arXiv:2506.09045): gamma_t = mean(|r_t| / |r_(t-1)|), the ratio of the residual's norm to that at the step before;
    `curve` is gamma for each step of a published sampling. The paper takes the product, less 1, for the error of reuse, and
    its code reuses the residual as it is all the same: `scale` off. On a schedule of another length the size, not its ratio,
    is interpolated, in the logarithm and by share of the steps, so that fewer steps make larger changes; the authors take
    the nearest gamma.
    """

    curve: tuple[float, ...]
    scale: bool = True

    def __post_init__(self) -> None:
        wrong = [gamma for gamma in self.curve if not 0.0 < gamma < float("inf")]
        if len(self.curve) < 2 or wrong:
            raise RecipeError(f"Scaled needs a curve of 2 or more positive ratios, not {wrong or self.curve}.")

    @property
    def depth(self) -> int:
        return 1

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        if not self.scale:
            return [1.0]
        now, then = (self._size(position(sigma, step.schedule), step.schedule) for sigma in (step.sigma, times[-1]))
        return [now / then]

    def _size(self, place: float, schedule: Schedule) -> float:
        """Norm of the residual at step `place` of `schedule`, relative to that at the curve's first step."""
        last = len(self.curve) - 1
        rank = min(place * last / max(schedule.total - 1, 1), float(last))
        whole = int(rank)
        after: float = self.curve[whole + 1] ** (rank - whole) if whole < last else 1.0
        return prod(self.curve[1 : whole + 1]) * after
