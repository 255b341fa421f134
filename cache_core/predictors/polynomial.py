"""Predictors that extend the polynomial through the anchors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecipeError
from ..types import Step
from .base import Linear, Weighted

REACH = 20.0  # how many times as far as two anchors lie apart a forecast from both may reach
GAUSS = ((-math.sqrt(0.6), 5 / 18), (0.0, 8 / 18), (math.sqrt(0.6), 5 / 18))  # nodes and weights, exact up to degree 5


def apart(times: Sequence[float], time: float) -> list[int]:
    """Which anchors, oldest first, are far enough apart to forecast `time` from.

    The newest is. An older one is left out if it is nearer to the next one taken than 1 / REACH of the way from the
    newest to `time`: its difference is rounding and noise, and a forecast would carry them more than REACH times enlarged.
    """
    taken = [len(times) - 1]
    for k in range(len(times) - 2, -1, -1):
        gap = abs(times[k] - times[taken[0]])
        if gap > 0.0 and gap * REACH >= abs(time - times[-1]):
            taken.insert(0, k)
    return taken


def basis(times: Sequence[float], time: float) -> list[float]:
    """Value at `time` of each polynomial of Lagrange on `times`, which all differ."""
    values = [1.0] * len(times)
    for k, a in enumerate(times):
        for j, b in enumerate(times):
            if j != k:
                values[k] *= (time - b) / (a - b)
    return values


def spread(weights: Sequence[float], taken: Sequence[int], count: int) -> list[float]:
    """`weights` of the anchors `taken`, as weights of all `count` anchors."""
    given = [0.0] * count
    for k, weight in zip(taken, weights, strict=True):
        given[k] = weight
    return given


@dataclass(frozen=True, slots=True)
class Hold(Linear):
    """The last feature, unchanged."""

    @property
    def depth(self) -> int:
        return 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        return [1.0]


@dataclass(frozen=True, slots=True)
class Lagrange(Linear):
    """The polynomial through the last `order + 1` anchors: exact for polynomials of that order.

    Fewer anchors, or anchors too close together (`apart`), give a lower order. Orders above 1 explode on uneven anchors.
    """

    order: int

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise RecipeError(f"Lagrange takes an order from 0 to 4, not {self.order}; 1 is the one that is safe on any mask.")

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        if len(times) == 2:  # the usual case, written out: it comes at every evaluation
            old, new = times
            if 0.0 < abs(old - new) * REACH >= abs(time - new):
                return [(time - new) / (old - new), (time - old) / (new - old)]
        taken = apart(times, time)
        if len(taken) == len(times):
            return basis(times, time)
        return spread(basis([times[k] for k in taken], time), taken, len(times))


@dataclass(frozen=True, slots=True)
class AdamsBashforth(Weighted):
    """Euler steps over a skipped run that add up to one Adams-Bashforth step of `order` from the newest anchor.

    AB-Cache (arXiv:2504.10540) reads skipping as that method, on equal steps; here the steps are the schedule's, so
    order 2 from noise level a to c, b the anchor before, is h ((1 + h / 2g) v_a - h / 2g v_b), h = c - a, g = a - b.
    Each forecast is what its own step has to add, and the first of a run also what the Euler step from the anchor lacked.
    For velocities under the Euler sampler: it is the mean over a step and no estimate of the feature at its start, so
    the ledger's error of it is larger than that of `Lagrange(order - 1)`, which suits every sampler.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 5:
            raise RecipeError(f"AdamsBashforth takes an order from 1 to 5, not {self.order}; 2 is the one that is safe on any mask.")

    @property
    def depth(self) -> int:
        return self.order

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        schedule, start, newest = step.schedule, step.sigma, times[-1]
        end = schedule.sigmas[step.index + 1]
        if start == end:
            return Lagrange(self.order - 1).weights(times, start)
        taken = apart(times, end)
        anchors = [times[k] for k in taken]
        whole = _integral(anchors, newest, end)
        done = _integral(anchors, newest, start)
        if step.index <= schedule.index(newest) + 1:  # so far there was the Euler step with the newest anchor itself
            done = [0.0] * (len(anchors) - 1) + [start - newest]
        return spread([(a - b) / (end - start) for a, b in zip(whole, done, strict=True)], taken, len(times))


def _integral(times: Sequence[float], start: float, end: float) -> list[float]:
    """Integral from `start` to `end` of each polynomial of Lagrange on at most 5 `times`."""
    middle, half = (start + end) / 2, (end - start) / 2
    values = [[weight * value for value in basis(times, middle + half * node)] for node, weight in GAUSS]
    return [(end - start) * sum(column) for column in zip(*values, strict=True)]
