"""Masks by dynamic programming on local errors: where a far search starts from, beside even, crowded and published ones.

The local error of a gap is what the best weights on the last two computed velocities leave of the way over it, on the uncached
trajectory, as much larger as the model is taken to make it until the end (`fit.response`). It knows nothing of corrections; the search
that starts here does. Related: LeMiCa (arXiv:2511.00090) and DPCache (arXiv:2602.22654) find their masks as paths of least error.
"""

from itertools import pairwise

import numpy as np

from .fit import response
from .statistics import Array, Statistics

SLIGHT = 1e-9  # of the first regressor, where the second is nearly the same


def chained(statistics: Statistics, count: int) -> list[int]:
    """The mask of `count` steps, three or more, the first and the last among them, with the least sum of squared local errors."""
    total = len(statistics.sigmas)
    errors = Errors(statistics)
    sums = np.full((total, total), np.inf)  # of the best masks that end with two steps
    sums[0, 1:] = errors.first()[1:total]
    ways = []
    for _ in range(count - 2):
        longer, way = np.full((total, total), np.inf), np.zeros((total, total), int)
        for last in range(1, total - 1):
            offered = sums[:last, last, None] + errors.after(last)[:last, last + 1 : total]
            way[last, last + 1 :] = offered.argmin(0)
            longer[last, last + 1 :] = offered.min(0)
        sums = longer
        ways.append(way)
    mask = [total - 1, int(sums[:, total - 1].argmin())]
    for way in reversed(ways):
        mask.append(int(way[mask[-1], mask[-2]]))
    return mask[::-1]


class Errors:
    """Squared local errors of all gaps, summed over the bands."""

    def __init__(self, statistics: Statistics) -> None:
        sigmas = np.array([*statistics.sigmas, statistics.end])
        self._products = statistics.gram[:, 1:, 1:]  # [bands, N, N], of velocities
        steps = np.tril(np.tile(np.diff(sigmas), (len(sigmas), 1)), -1)  # [N + 1, N], the way from the start to each noise level
        self._against = self._products @ steps.T  # [bands, N, N + 1], of velocities and ways
        self._ways = steps @ self._against  # [bands, N + 1, N + 1]
        grown = [1.0 + (after - sigma) * response(sigma)[0] for sigma, after in pairwise(sigmas)]
        self._growth = np.array([*np.cumprod(grown[::-1])[::-1], 1.0]) ** 2  # [N + 1], of a square from each noise level to the end

    def first(self) -> Array:
        """Of the gaps from the first step, the only one known, up to each step and the end [N + 1]."""
        own, known = self._gaps(0)
        found: Array = (own - known[:, 0] ** 2 / self._products[:, 0, 0, None]).clip(0.0).sum(0) * self._growth
        return found

    def after(self, last: int) -> Array:
        """Of the gaps from step `last` on, with each step as the one before it [N, N + 1]."""
        own, known = self._gaps(last)
        square = self._products[:, last, last, None]
        alike = self._products[:, last] / square  # what each velocity has of the newest
        rest = np.maximum(np.diagonal(self._products, axis1=1, axis2=2) - alike**2 * square, SLIGHT * square)
        told = known - alike[..., None] * known[:, last, None]
        gained = known[:, last, None] ** 2 / square[..., None] + told**2 / rest[..., None]
        found: Array = (own[:, None] - gained).clip(0.0).sum(0) * self._growth
        return found

    def _gaps(self, last: int) -> tuple[Array, Array]:
        """Of the ways over the steps after `last`, products with themselves [bands, N + 1] and with all velocities [bands, N, N + 1]."""
        begin = last + 1
        own = np.diagonal(self._ways, axis1=1, axis2=2) - 2 * self._ways[:, begin] + self._ways[:, begin, begin, None]
        return own, self._against - self._against[..., begin, None]
