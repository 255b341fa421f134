"""TRACE: forecasts fitted so that a cached sampling returns to the uncached trajectory, in closed form and without the model.

The answer at step n is sum_j w_nj v_aj + u_n x_n, per band, from the last computed velocities v_a and the latent x. All of
these lie in the span of the starting noise and the teacher's velocities, so a whole cached sampling can be followed as
coefficients on those, and every least-squares problem in it needs their inner products (`Statistics`) and nothing else.
The fit's target at step n is the velocity that leads from the student's own x_n to the teacher's x_(n+1) under the Euler
step, at computed steps too: there it repays what earlier forecasts lost. Related: PAS (arXiv:2411.06503) corrects few-step
solvers towards a teacher's states by gradient descent; L2P (arXiv:2604.26365) fits caches to the teacher's own features.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .statistics import Array, Statistics

DEPTH = 3  # computed velocities kept
RIDGE = 1e-4  # times the mean square of the regressors, towards order 1
# What a computed velocity is taken to do when the latent is off by d: it moves by SLOPE d, and by UNKNOWN / (1 - sigma) |d| in a
# direction that nobody foretells. Chosen on demo-flux; without it a search trusts long reaches in the noisy steps.
SLOPE = -0.75
UNKNOWN = 0.28


@dataclass(frozen=True, slots=True)
class Plan:
    """A mask and, for each step with two anchors or more, the weights [bands, anchors + 1] of the anchors, oldest first, then of x.

    `anchors` are the steps that those weights are for. `error` is the expected distance of the final latent from the
    uncached one, as a share of its norm.
    """

    computed: frozenset[int]
    weights: Mapping[int, tuple[tuple[float, ...], ...]]
    anchors: Mapping[int, tuple[int, ...]]
    levels: tuple[int, ...]
    error: float


def order_one(times: Array, time: float) -> Array:
    """The fit's prior: weights of the line through the last two anchors, nothing of older ones and of x."""
    weights = np.zeros(len(times) + 1)
    reach = (time - times[-1]) / (times[-1] - times[-2])
    weights[-3], weights[-2] = -reach, 1.0 + reach
    return weights


def fit(statistics: Statistics, computed: Iterable[int], depth: int = DEPTH, ridge: float = RIDGE, fitted: bool = True) -> Plan:
    """Follow a sampling that computes the steps `computed` and fit its weights on the way; unless `fitted`, leave them at order 1."""
    mask = sorted(computed)
    sigmas = np.array([*statistics.sigmas, statistics.end])
    space = _Space(statistics, len(mask))
    student, teacher = space.start(), space.start()
    known: list[tuple[int, Array]] = []
    weights, anchors = {}, {}
    for n in range(len(sigmas) - 1):
        stride = sigmas[n + 1] - sigmas[n]
        truth = space.velocity(n)
        if n in mask:
            known = [*known, (n, space.seen(truth, student - teacher, sigmas[n]))][-depth:]
        goal = (teacher + stride * truth - student) / stride
        answer = known[-1][1]
        if len(known) > 1:
            prior = order_one(sigmas[[step for step, _ in known]], sigmas[n])
            parts = np.stack([*(part for _, part in known), student], 1)  # [bands, anchors + 1, basis]
            found = space.solve(parts, goal, prior, ridge) if fitted else np.tile(prior, (len(parts), 1))
            answer = np.einsum("gp,gpm->gm", found, parts)
            weights[n], anchors[n] = tuple(map(tuple, found.tolist())), tuple(step for step, _ in known)
        student, teacher = student + stride * answer, teacher + stride * truth
    error = math.sqrt(space.square(student - teacher) / space.square(teacher))
    return Plan(frozenset(mask), MappingProxyType(weights), MappingProxyType(anchors), statistics.levels, error)


class _Space:
    """The span of noise, the teacher's velocities, and one unforeseen direction for each computed step, per band."""

    def __init__(self, statistics: Statistics, computed: int) -> None:
        bands, size = statistics.gram.shape[:2]
        self.gram = np.zeros((bands, size + computed, size + computed))
        self.gram[:, :size, :size] = statistics.gram
        self.gram[:, range(size, size + computed), range(size, size + computed)] = 1.0
        self._next = size

    def start(self) -> Array:
        """The starting noise [bands, basis]."""
        return self._unit(0)

    def velocity(self, n: int) -> Array:
        """The teacher's n-th velocity [bands, basis]."""
        return self._unit(1 + n)

    def seen(self, truth: Array, drift: Array, sigma: float) -> Array:
        """The velocity [bands, basis] that the model gives where the student is off by `drift`."""
        result: Array = truth + SLOPE * drift
        size = np.sqrt(np.maximum(np.einsum("gm,gmk,gk->g", drift, self.gram, drift), 0.0))
        result[:, self._next] += UNKNOWN / max(1.0 - sigma, 0.02) * size
        self._next += 1
        return result

    def solve(self, parts: Array, goal: Array, prior: Array, ridge: float) -> Array:
        """argmin_w |w parts - goal|^2 + ridge mean|parts|^2 |w - prior|^2 per band, [bands, anchors + 1]."""
        weighted = parts @ self.gram
        square = weighted @ parts.transpose(0, 2, 1)
        count = square.shape[1]
        pull = ridge * np.trace(square, axis1=1, axis2=2)[:, None] / count + 1e-300
        right = np.einsum("gpm,gm->gp", weighted, goal) + pull * prior
        result: Array = np.linalg.solve(square + pull[..., None] * np.eye(count), right[..., None])[..., 0]
        return result

    def square(self, vector: Array) -> float:
        """Squared norm over all bands of [bands, basis]."""
        return max(float(np.einsum("gm,gmk,gk->", vector, self.gram, vector)), 0.0)

    def _unit(self, index: int) -> Array:
        vector = np.zeros(self.gram.shape[:2])
        vector[:, index] = 1.0
        return vector
