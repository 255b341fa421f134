"""Step masks: published ones, carried over to other schedules and budgets."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from .errors import RecipeError
from .types import Schedule

FEWEST = 5  # computed steps below which no schedule is cut


class Placed(Protocol):
    """Computed steps with a noise level each."""

    @property
    def computed(self) -> tuple[int, ...]: ...

    def sigma(self, step: int) -> float:
        """Noise level of `step`."""
        ...


@dataclass(frozen=True, slots=True)
class PublishedMask:
    """The computed steps of a published schedule of `total` steps on a rectified-flow grid of time shift `shift`."""

    name: str
    model: str
    source: str
    total: int
    shift: float
    computed: tuple[int, ...]

    @property
    def share(self) -> float:
        """Fraction of the steps that is computed."""
        return len(self.computed) / self.total

    def sigma(self, step: int) -> float:
        """Noise level at which the published run evaluated `step`: shift t / (1 + (shift - 1) t), t = 1 - step / total."""
        time = 1.0 - step / self.total
        return self.shift * time / (1.0 + (self.shift - 1.0) * time)


def from_cached(name: str, model: str, source: str, shift: float, cached: str) -> PublishedMask:
    """A mask printed as digits, a step each, 1 = cached."""
    computed = tuple(n for n, digit in enumerate(cached) if digit == "0")
    return PublishedMask(name, model, source, len(cached), shift, computed)


def budget(total: int, speed: float) -> int:
    """The largest number of computed steps below total / speed, since a reused step is not quite free; FEWEST at least."""
    wished = total if speed <= 1.0 else math.ceil(total / speed - 1e-9) - 1
    return min(total, max(wished, FEWEST))


def nearest(masks: Sequence[PublishedMask], share: float) -> PublishedMask:
    """The mask whose computed share is nearest by ratio."""
    return min(masks, key=lambda mask: abs(math.log(mask.share / share)))


@lru_cache(maxsize=256)
def rescale(mask: Placed, schedule: Schedule, count: int) -> frozenset[int]:
    """`count` steps of `schedule` to compute, as densely along sigma as `mask` computes.

    The mask's computed steps are points of a curve, rank against sigma. Every step of `schedule` is looked up on that
    curve; ranks are stretched to 0 .. count - 1; and each whole rank takes the step nearest to it. On the mask's own
    grid with its own count that gives the mask back. The first step is always computed.
    """
    total = schedule.total
    if not 1 <= count <= total:
        raise RecipeError(f"{count} computed steps do not fit a schedule of {total} steps; ask for 1 to {total}.")
    ranks = [_rank(mask, sigma) for sigma in schedule.sigmas[:-1]]
    first, last = ranks[0], ranks[-1]
    stretch = (count - 1) / (last - first) if last > first else 0.0
    wanted = [(rank - first) * stretch for rank in ranks]
    chosen = [0]
    for rank in range(1, count):
        free = range(chosen[-1] + 1, total - (count - 1 - rank))
        chosen.append(min(free, key=lambda n: (abs(wanted[n] - rank), n)))
    return frozenset(chosen)


def _rank(mask: Placed, sigma: float) -> float:
    """How many of the mask's computed steps lie before noise level `sigma`, a fraction between two of them."""
    falling = [-mask.sigma(step) for step in mask.computed]
    after = bisect_right(falling, -sigma + 1e-9)
    if after == 0:
        return 0.0
    if after == len(falling):
        return float(len(falling) - 1)
    before, behind = falling[after - 1], falling[after]
    return after - 1 + (-sigma - before) / (behind - before)
