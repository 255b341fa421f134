"""How a solver goes from one evaluation to the next: a linear multistep rule, the same for every latent."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

EULER = "euler"  # the name of Euler's method, as the host has it
Vector = Any  # a latent as tensor, or the coefficients of one as array


@dataclass(frozen=True, slots=True)
class Solver:
    """x[n+1] = rows[n][0] x[n] + sum_k rows[n][1+k] p[n-k], newest first: on velocities v, or on pictures p = x - sigma v.

    `pictures` are what DPM-Solver++(2M), UniPC and RES go by, velocities what Euler, LMS, DEIS and iPNDM go by. All that evaluate once
    a step and are linear in what they see are one or the other.
    """

    name: str
    rows: tuple[tuple[float, ...], ...]
    pictures: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.rows)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def memory(self) -> int:
        """What it remembers besides the newest."""
        return max(map(len, self.rows)) - 2


def euler(sigmas: Sequence[float]) -> Solver:
    """Euler's method on noise levels `sigmas`, noisiest first."""
    return Solver(EULER, tuple((1.0, after - sigma) for sigma, after in pairwise(sigmas)))


class Walk:
    """One latent on its way by a solver, from evaluation to evaluation."""

    def __init__(self, x: Vector, sigmas: Sequence[float], solver: Solver) -> None:
        self.x: Vector = x
        self._sigmas, self._solver = sigmas, solver
        self._seen: deque[Vector] = deque(maxlen=solver.memory)  # before the step under way, newest first
        self._step = 0

    def go(self, velocity: Vector) -> None:
        """Take a step with the velocity at its start."""
        keep, share, *_ = self._solver.rows[self._step]
        newest = self.x - self._sigmas[self._step] * velocity if self._solver.pictures else velocity
        self.x = keep * self.x + share * newest + self._older()
        self._seen.appendleft(newest)
        self._step += 1

    def back(self, goal: Vector) -> Vector:
        """The velocity that leads to `goal` in the step under way."""
        keep, share, *_ = self._solver.rows[self._step]
        newest = (goal - keep * self.x - self._older()) / share
        return (self.x - newest) / self._sigmas[self._step] if self._solver.pictures else newest

    def _older(self) -> Vector:
        shares = self._solver.rows[self._step][2:]
        return sum((share * one for share, one in zip(shares, self._seen, strict=False)), 0.0)
