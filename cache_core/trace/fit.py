"""TRACE: forecasts fitted so that a cached sampling returns to the uncached trajectory, in closed form and without the model.

The answer at step n is sum_j w_nj v_aj + u_n x_n, per band, from the last computed velocities v_a and the latent x. All of
these lie in the span of the starting noise and the teacher's velocities, so a whole cached sampling can be followed as
coefficients on those, and every least-squares problem in it needs their inner products (`Statistics`) and nothing else.
The fit's target at step n is the velocity that leads from the student's own x_n to the teacher's x_(n+1) in the solver's
step, at computed steps too: there it repays what earlier forecasts lost. Related: PAS (arXiv:2411.06503) corrects few-step
solvers towards a teacher's states by gradient descent; L2P (arXiv:2604.26365) fits caches to the teacher's own features.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ..solver import Solver, Walk, euler
from .bands import Level
from .statistics import Array, Statistics

DEPTH = 5  # computed velocities kept
RIDGE = 1e-4  # times the mean square of the regressors, towards order 1
# What a computed velocity is taken to do where the latent is off by d. At high noise it moves as the forecast of the picture does, by
# 1 / (1 - sigma) times a share of d; at low noise it takes a share of d for noise, by 1 / sigma. SLOPES are what moves along d, UNKNOWN
# what moves by |d| in a direction that nobody foretells, both as (of 1 / (1 - sigma), of 1 / sigma), neither divisor below NEAREST. They
# were chosen by the real errors of masks on demo-flux and demo-wan (docs/notes.md). A rehearsal meets what a model really does; a
# search goes by this.
SLOPES = (-1.0, 0.33)
UNKNOWN = (0.28, 0.26)
NEAREST = (0.1, 0.03)


@dataclass(frozen=True, slots=True)
class Plan:
    """A mask and, for each step with two anchors or more, the weights [bands, anchors + 1] of the anchors, oldest first, then of x.

    `anchors` are the steps that those weights are for. `error` is the expected distance of the final latent from the
    uncached one, as a share of its norm; of a rehearsed plan, what it was. `exams` are the relative errors that an order-1
    forecast is expected to have at computed steps. `mixing` has, for some of the steps, what is added to the weights where
    channels mix (`mixing.py`). Of a rehearsed plan, `alarm` is how many times as large as expected an exam is in one sampling of a
    hundred (0: not known), and `held_out` the error of trajectories that it was not fitted to.
    """

    computed: frozenset[int]
    weights: Mapping[int, tuple[tuple[float, ...], ...]]
    anchors: Mapping[int, tuple[int, ...]]
    levels: tuple[Level, ...]
    error: float
    exams: Mapping[int, float] = field(default_factory=dict)
    mixing: Mapping[int, Array] = field(default_factory=dict, compare=False)  # [bands, channels, anchors + 1, channels]
    alarm: float = 0.0
    held_out: float | None = None
    memo: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)  # made of it where it is used

    def mixed(self, step: int, channels: int) -> Array | None:
        """The mixing at a step of a latent with so many channels; one of another number goes by the weights alone."""
        found = self.mixing.get(step)
        return found if found is not None and found.shape[1] == channels else None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a fit is made of; an ablation leaves something out.

    `returns`: its target leads back to the teacher's path, else it imitates the teacher's velocity; `state`: the latent is a
    regressor; `corrects`: computed velocities are corrected too.
    """

    returns: bool = True
    state: bool = True
    corrects: bool = True


ALL = Terms()


def order_one(times: Array, time: float) -> Array:
    """The fit's prior: weights of the line through the last two anchors, nothing of older ones and of x."""
    weights = np.zeros(len(times) + 1)
    reach = (time - times[-1]) / (times[-1] - times[-2])
    weights[-3], weights[-2] = -reach, 1.0 + reach
    return weights


@dataclass(frozen=True, slots=True)
class Manner:
    """How a sampling is followed: with `depth` velocities kept, and `ridge` drawing weights to order 1; they stay there unless `fitted`."""

    depth: int = DEPTH
    ridge: float = RIDGE
    fitted: bool = True
    terms: Terms = ALL


USUAL = Manner()


def fit(statistics: Statistics, computed: Iterable[int], manner: Manner = USUAL, solver: Solver | None = None) -> Plan:
    """Follow a sampling by `solver` (None: Euler's) that computes the steps `computed`, and fit its weights on the way."""
    mask, terms = sorted(computed), manner.terms
    space = Guessed(statistics, len(mask))
    choose = _with(terms, mask, space.solver(manner.ridge)) if manner.fitted else _prior
    return follow(space, statistics, mask, manner.depth, choose, terms.returns, solver)


# Weights [bands, anchors + 1] for a step, from the parts [bands, anchors + 1, basis], the goal [bands, basis] and the prior [anchors + 1].
Choice = Callable[[int, Array, Array, Array], Array]


def follow(
    space: "Space",
    statistics: Statistics,
    mask: Sequence[int],
    depth: int,
    choose: Choice,
    returns: bool = True,
    solver: Solver | None = None,
) -> Plan:
    """The plan of a cached sampling in `space` whose weights `choose` gives, step after step."""
    levels = (*statistics.sigmas, statistics.end)
    sigmas, rule = np.array(levels), solver or euler(levels)
    student, teacher = Walk(space.start(), levels, rule), Walk(space.start(), levels, rule)
    known: list[tuple[int, Array]] = []
    weights, anchors, exams = {}, {}, {}
    for n in range(len(sigmas) - 1):
        truth = space.velocity(n)
        if n in mask:
            seen = space.seen(n, student.x, student.x - teacher.x, sigmas[n])
            if len(known) > 1:
                line = order_one(sigmas[[step for step, _ in known]], sigmas[n])[:-1]
                forecast = np.einsum("p,gpm->gm", line, np.stack([part for _, part in known], 1))
                exams[n] = math.sqrt(space.square(forecast - seen) / space.square(seen))
            known = [*known, (n, seen)][-depth:]
        teacher.go(truth)
        goal = student.back(teacher.x) if returns else truth
        answer = known[-1][1]
        if len(known) > 1:
            prior = order_one(sigmas[[step for step, _ in known]], sigmas[n])
            parts = np.stack([*(part for _, part in known), student.x], 1)  # [bands, anchors + 1, basis]
            found = choose(n, parts, goal, prior)
            answer = np.einsum("gp,gpm->gm", found, parts)
            weights[n], anchors[n] = tuple(map(tuple, found.tolist())), tuple(step for step, _ in known)
        student.go(answer)
    error = math.sqrt(space.square(student.x - teacher.x) / space.square(teacher.x))
    return Plan(frozenset(mask), MappingProxyType(weights), MappingProxyType(anchors), statistics.levels, error, MappingProxyType(exams))


def ridged(square: Array, right: Array, prior: Array, ridge: float) -> Array:
    """Weights [bands, P] that solve square [bands, P, P] w = right [bands, P], drawn to `prior` by `ridge` times the diagonal's mean."""
    count = square.shape[1]
    pull = ridge * np.trace(square, axis1=1, axis2=2)[:, None] / count + 1e-300
    found: Array = np.linalg.solve(square + pull[..., None] * np.eye(count), (right + pull * prior)[..., None])[..., 0]
    return found


def response(sigma: float) -> tuple[float, float]:
    """Slope and unknown part of what the velocity at `sigma` is taken to answer to drift."""
    high, low = 1.0 / max(1.0 - sigma, NEAREST[0]), 1.0 / max(sigma, NEAREST[1])
    return SLOPES[0] * high + SLOPES[1] * low, math.hypot(UNKNOWN[0] * high, UNKNOWN[1] * low)


def _prior(step: int, parts: Array, goal: Array, prior: Array) -> Array:
    return np.tile(prior, (len(parts), 1))


def _with(terms: Terms, mask: Sequence[int], choose: Choice) -> Choice:
    """The choice held to `terms`."""

    def chosen(step: int, parts: Array, goal: Array, prior: Array) -> Array:
        if step in mask and not terms.corrects:
            return _prior(step, parts, goal, prior)  # which is the computed velocity itself
        if terms.state:
            return choose(step, parts, goal, prior)
        found = choose(step, parts[:, :-1], goal, prior[:-1])
        return np.concatenate([found, np.zeros((len(found), 1))], 1)

    return chosen


class Space:
    """The span of the starting noise, the teacher's velocities and what else `gram` [bands, basis, basis] has, per band."""

    def __init__(self, gram: Array) -> None:
        self.gram = gram

    def start(self) -> Array:
        """The starting noise [bands, basis]."""
        return self.unit(0)

    def velocity(self, n: int) -> Array:
        """The teacher's n-th velocity [bands, basis]."""
        return self.unit(1 + n)

    def seen(self, n: int, student: Array, drift: Array, sigma: float) -> Array:
        """The velocity [bands, basis] that the model gives at step n to the `student`, who is off by `drift`."""
        raise NotImplementedError

    def solver(self, ridge: float) -> Choice:
        """argmin_w |w parts - goal|^2 + ridge mean|parts|^2 |w - prior|^2 per band."""

        def solve(step: int, parts: Array, goal: Array, prior: Array) -> Array:
            weighted = parts @ self.gram
            return ridged(weighted @ parts.transpose(0, 2, 1), np.einsum("gpm,gm->gp", weighted, goal), prior, ridge)

        return solve

    def sizes(self, vector: Array) -> Array:
        """Norms [bands] of [bands, basis]."""
        squares: Array = np.einsum("gm,gmk,gk->g", vector, self.gram, vector)
        return np.sqrt(np.maximum(squares, 0.0))

    def square(self, vector: Array) -> float:
        """Squared norm over all bands of [bands, basis]."""
        return float((self.sizes(vector) ** 2).sum())

    def unit(self, index: int) -> Array:
        """The basis' vector number `index`, in all bands."""
        vector = np.zeros(self.gram.shape[:2])
        vector[:, index] = 1.0
        return vector


class Guessed(Space):
    """The teacher's span, with one unforeseen direction for each computed step: what the model answers off the path is guessed."""

    def __init__(self, statistics: Statistics, computed: int) -> None:
        bands, size = statistics.gram.shape[:2]
        gram = np.zeros((bands, size + computed, size + computed))
        gram[:, :size, :size] = statistics.gram
        gram[:, range(size, size + computed), range(size, size + computed)] = 1.0
        super().__init__(gram)
        self._next = size

    def seen(self, n: int, student: Array, drift: Array, sigma: float) -> Array:
        slope, unknown = response(sigma)
        result: Array = self.velocity(n) + slope * drift
        result[:, self._next] += unknown * self.sizes(drift)
        self._next += 1
        return result
