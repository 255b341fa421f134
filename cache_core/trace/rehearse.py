"""Rehearsals: cached samplings of the calibration's prompts, that show what the model really answers off the uncached path.

`fit` guesses that answer. A rehearsal keeps the velocities that the model gave to a student who followed a plan; with their inner
products the same fit is exact on that path, and moves the plan a little, where the guess of `response` is enough. Two or three
rounds come to what a fit would give that samples all prompts in step with one another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from .bands import as_rows
from .fit import DEPTH, Plan, Space, follow, response
from .statistics import Array, Statistics

ROUNDS = 3  # rehearsals of a plan; the best one stays
HOLD = 1e-3  # times the mean square of the regressors, towards the weights that were rehearsed


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """A plan, and inner products of the starting noise, the teacher's velocities and those computed under the plan.

    `gram` [bands, N + 1 + computed, N + 1 + computed], in this order, mean over trajectories and numbers.
    """

    plan: Plan
    gram: Array
    trajectories: int = 1

    @classmethod
    def of(cls, plan: Plan, start: Tensor, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> "Rehearsal":
        """From one batch: its starting latent, its uncached velocities and those computed under the plan, each [B, C, (F,) H, W]."""
        if len(student) != len(plan.computed):
            raise CacheError(
                f"A rehearsal of a plan that computes {len(plan.computed)} steps has {len(student)} velocities. Use the sampler euler."
            )
        rows = torch.stack([as_rows(part, plan.levels) for part in (start, *teacher, *student)], 2)
        gram = torch.einsum("gbnx,gbmx->gnm", rows.double(), rows.double()) / (rows.shape[1] * rows.shape[3])
        return cls(plan, gram.numpy(), len(start))

    def and_(self, other: "Rehearsal") -> "Rehearsal":
        """Both together, each with the weight of its trajectories."""
        total = self.trajectories + other.trajectories
        return replace(self, gram=(self.gram * self.trajectories + other.gram * other.trajectories) / total, trajectories=total)

    def outcome(self, statistics: Statistics) -> Plan:
        """The plan with the error that it really had."""
        return self._replay(statistics)[0]

    def refit(self, statistics: Statistics, ridge: float = HOLD) -> Plan:
        """The plan's mask with weights fitted to what the model really answered, and held near those that it answered to."""
        mask = sorted(self.plan.computed)
        space = _Heard(self.gram, len(statistics.sigmas), mask, self._replay(statistics)[1])
        solve = space.solver(ridge)
        return follow(space, statistics, mask, self._depth, lambda step, parts, goal, _: solve(step, parts, goal, self._weights(step)))

    def _replay(self, statistics: Statistics) -> tuple[Plan, dict[int, Array]]:
        mask = sorted(self.plan.computed)
        space = _Heard(self.gram, len(statistics.sigmas), mask, None)
        plan = follow(space, statistics, mask, self._depth, lambda step, *_: self._weights(step))
        return plan, space.path

    @property
    def _depth(self) -> int:
        return max(map(len, self.plan.anchors.values()), default=DEPTH)

    def _weights(self, step: int) -> Array:
        return np.array(self.plan.weights[step])


class _Heard(Space):
    """The span with the recorded velocities; a student off the recorded `path` gets them moved by the guessed slope."""

    def __init__(self, gram: Array, steps: int, mask: Sequence[int], path: dict[int, Array] | None) -> None:
        super().__init__(gram)
        self.path: dict[int, Array] = {}
        self._recorded = path
        self._place = {step: 1 + steps + n for n, step in enumerate(mask)}

    def seen(self, n: int, student: Array, drift: Array, sigma: float) -> Array:
        self.path[n] = student
        heard = self.unit(self._place[n])
        if self._recorded is None:
            return heard
        moved: Array = heard + response(sigma)[0] * (student - self._recorded[n])
        return moved


def rehearse(statistics: Statistics, plans: Sequence[Plan], perform: Callable[[Plan], Rehearsal], rounds: int = ROUNDS) -> Plan:
    """The best plan of `rounds`: after each, the better half of the plans is refitted to what happened under it.

    `perform` samples the calibration's prompts with a plan. The result's `error` is what was measured there.
    """
    best: Plan | None = None
    for number in range(rounds):
        shown = sorted(((found.outcome(statistics), found) for found in map(perform, plans)), key=lambda pair: pair[0].error)
        if best is None or shown[0][0].error < best.error:
            best = shown[0][0]
        if number + 1 < rounds:
            plans = [found.refit(statistics) for _, found in shown[: max(1, len(shown) // 2)]]
    assert best is not None, "one rehearsal at least"
    return best


def performances(plans: int, rounds: int = ROUNDS) -> int:
    """How often `rehearse` samples at most."""
    return sum(max(1, plans >> number) for number in range(rounds))
