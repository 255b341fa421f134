"""Rehearsals: a calibration's trajectories sampled with a mask, all in step, each step fitted to where they really are.

`fit` guesses what the model answers off the uncached path. In a rehearsal it answers itself: computed steps evaluate it at the
students' own latents, and the weights of a step are found there before the students go on. A rehearsal costs the computed steps
alone. Its steps are Euler's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..measure import TINY
from ..solver import Solver, Walk, euler
from .bands import Level
from .fit import DEPTH, Plan, order_one
from .mixing import Problem, answer, kept, mix, table
from .statistics import Array

LEAST = 1e-3  # share of the mean below which what is left of a trajectory's goal makes no difference
SPARED = 8  # one trajectory of so many is held out of the fit
FEW = 4  # trajectories, of fewer none is, and they do not tell how far exams spread
HELD_OUT = 2  # the group of those, beside the halves 0 and 1 of those that are fitted
QUANTILE = 0.99  # of the samplings shall not come to a step of their plan with an exam that alarms


class Stage(Protocol):
    """What a rehearsal needs: recorded trajectories in numbered batches, and the model."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, the one at the end too."""
        ...

    @property
    def solver(self) -> Solver | None:
        """How they were sampled and students are; None: by Euler's method."""
        ...

    @property
    def batches(self) -> int:
        """How many there are."""
        ...

    def start(self, number: int) -> Tensor:
        """A batch's starting latent [B, C, (F,) H, W]."""
        ...

    def taught(self, number: int, step: int) -> Tensor:
        """Its uncached velocity [B, C, (F,) H, W] at a step."""
        ...

    def visit(self, number: int, x: Tensor, sigma: float) -> Tensor:
        """The velocity [B, C, (F,) H, W] that the model gives to its latent `x` at noise level `sigma`."""
        ...


@dataclass(slots=True)
class Student:
    """One batch on its way: its own latent, the teacher's, both [B, C, (F,) H, W], and the last computed velocities."""

    own: Walk
    teacher: Walk
    anchors: list[Tensor] = field(default_factory=list)

    @property
    def x(self) -> Tensor:
        """Where it is."""
        found: Tensor = self.own.x
        return found

    @property
    def parts(self) -> list[Tensor]:
        """Regressors: anchors, oldest first, then the latent."""
        return [*self.anchors, self.x]

    @property
    def goal(self) -> Tensor:
        """The velocity [B, C, (F,) H, W] that leads to where the teacher is after this step."""
        found: Tensor = self.own.back(self.teacher.x)
        return found


def rehearse(stage: Stage, computed: Iterable[int], levels: tuple[Level, ...], depth: int = DEPTH, mixes: bool = True) -> Plan:
    """The plan that computes these steps, with the error that it had. Unless it `mixes`, all channels go by one weight."""

    def fitted(step: int, students: Sequence[Student], prior: Array) -> tuple[Array, Array | None]:
        return _fitted(students, levels, prior, mixes)

    return _sampled(stage, computed, levels, depth, fitted)


def tried(stage: Stage, plan: Plan, depth: int = DEPTH) -> Plan:
    """The same plan, with the error and the exams that it really had."""

    def given(step: int, students: Sequence[Student], prior: Array) -> tuple[Array, Array | None]:
        return np.array(plan.weights[step]), plan.mixing.get(step)

    return _sampled(stage, plan.computed, plan.levels, depth, given)


def best(stage: Stage, guesses: Iterable[Plan], mixes: bool = True) -> Plan:
    """Of plans that were fitted to a guess, and of their masks rehearsed, the one that really ended nearest to the uncached latents."""
    ended = [made for guess in guesses for made in (rehearse(stage, guess.computed, guess.levels, mixes=mixes), tried(stage, guess))]
    return min(ended, key=lambda plan: plan.error)


# Weights [bands, P] of a step, and what mixing adds: from its number, the students and the prior [P].
Choice = Callable[[int, Sequence[Student], Array], tuple[Array, Array | None]]


def _sampled(stage: Stage, computed: Iterable[int], levels: tuple[Level, ...], depth: int, choose: Choice) -> Plan:
    """The plan whose weights `choose` gives, step after step, with the error that it had."""
    sigmas, mask = np.array(stage.sigmas), sorted(computed)
    rule = stage.solver or euler(stage.sigmas)
    starts = [stage.start(number).float() for number in range(stage.batches)]
    students = [Student(Walk(start, stage.sigmas, rule), Walk(start, stage.sigmas, rule)) for start in starts]
    weights, anchors, exams, mixing = {}, {}, {}, {}
    known: list[int] = []
    worst = torch.zeros(sum(len(student.x) for student in students))
    for n in range(len(sigmas) - 1):
        if n in mask:
            line = order_one(sigmas[known], sigmas[n])[:-1] if len(known) > 1 else None
            missed, whole = _visit(stage, students, float(sigmas[n]), line, depth)
            known = [*known, n][-depth:]
            if line is not None:
                exams[n] = math.sqrt(missed.sum() / whole.sum())
                worst = torch.maximum(worst, (missed / whole).sqrt() / (exams[n] + TINY))
        for number, student in enumerate(students):
            student.teacher.go(stage.taught(number, n).float())
        if len(known) > 1:
            found, mixed = choose(n, students, order_one(sigmas[known], sigmas[n]))
            weights[n], anchors[n] = tuple(map(tuple, found.tolist())), tuple(known)
            if mixed is not None:
                mixing[n] = mixed
        made = torch.from_numpy(table(np.array(weights[n]), mixing.get(n))).float() if n in weights else None
        for student in students:
            velocity = student.anchors[-1] if made is None else answer(student.parts, made.to(student.x.device), levels)
            student.own.go(velocity)
    ends, out = _distances(students), torch.tensor(spared(len(worst)))
    return Plan(
        frozenset(mask),
        MappingProxyType(weights),
        MappingProxyType(anchors),
        levels,
        float(ends.mean().exp()),
        MappingProxyType(exams),
        MappingProxyType(mixing),
        alarm=alarm(worst),
        held_out=float(ends[out].mean().exp()) if out.any() else None,
    )


def spared(count: int) -> list[bool]:
    """Which of `count` trajectories are held out of the fit: every eighth, of fewer the last, of very few none."""
    every = min(SPARED, count) if count >= FEW else count + 1
    return [number % every == every - 1 for number in range(count)]


def alarm(worst: Tensor) -> float:
    """What the worst exam of one sampling in a hundred exceeds, next to what is expected; 0 where too few have been seen.

    `worst` [B] are those of the trajectories. Their logarithms are taken for normal, and the bound is the one for a sampling that was
    not among them, by Student's t.
    """
    count = len(worst)
    if count < FEW or not (worst > 0.0).all():
        return 0.0
    logs, free, z = worst.double().log(), count - 1, NormalDist().inv_cdf(QUANTILE)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)  # Abramowitz and Stegun, 26.7.5
    return math.exp(float(logs.mean()) + t * float(logs.std()) * math.sqrt(1.0 + 1.0 / count))


def _visit(stage: Stage, students: Sequence[Student], sigma: float, line: Array | None, depth: int) -> tuple[Tensor, Tensor]:
    """Compute a step for all students; of each [B] the squares of what a forecast by the weights `line` misses, and of what there is."""
    missed, whole = [], []
    for number, student in enumerate(students):
        seen = stage.visit(number, student.x, sigma).float()
        if line is not None:
            forecast = sum(weight * anchor for weight, anchor in zip(line.tolist(), student.anchors, strict=True))
            missed.append((forecast - seen).square().flatten(1).sum(1).cpu())
            whole.append(seen.square().flatten(1).sum(1).cpu())
        student.anchors = [*student.anchors, seen][-depth:]
    return (torch.cat(missed), torch.cat(whole)) if missed else (torch.zeros(1), torch.zeros(1))


def _fitted(students: Sequence[Student], levels: tuple[Level, ...], prior: Array, mixes: bool) -> tuple[Array, Array | None]:
    """Weights [bands, P] that lead all students back to their teachers in this step, and what mixing adds if both halves have some."""
    groups, problems = _groups(sum(len(student.x) for student in students)), dict[int, Problem]()
    before = 0
    for student, share in zip(students, _shares(students, prior), strict=True):
        scale = share.sqrt().reshape(-1, *[1] * (student.x.ndim - 1))
        parts, goal = torch.stack(student.parts) * scale, student.goal * scale
        own = groups[before : before + len(goal)]
        for group in sorted(set(own)):
            rows = [row for row, found in enumerate(own) if found == group]
            made = Problem.of(parts[:, rows], goal[rows], levels)
            problems[group] = problems[group] + made if group in problems else made
        before += len(goal)
    judge = problems.pop(HELD_OUT, None)
    halves = list(problems.values())
    whole = halves[0] if len(halves) == 1 else halves[0] + halves[1]
    weights = whole.weights(prior)
    mixing = mix(halves, weights) if mixes and len(halves) == 2 and whole.rows > 1 else None
    return (weights, mixing) if judge is None else kept(judge, prior, weights, mixing)


def _groups(count: int) -> list[int]:
    """For each of `count` trajectories its half of those that are fitted, 0 or 1, or HELD_OUT."""
    found, fitted = [], 0
    for out in spared(count):
        found.append(HELD_OUT if out else fitted % 2)
        fitted += not out
    return found


def _shares(students: Sequence[Student], prior: Array) -> list[Tensor]:
    """What each trajectory counts [B]: the inverse of what order 1 leaves of its goal, so that a few bad ones do not rule the fit."""
    left, made = [], torch.from_numpy(table(prior[None])).float()
    for student in students:
        line = answer(student.parts, made.to(student.x.device), ())
        left.append((student.goal - line).square().flatten(1).sum(1))
    mean = torch.cat(left).mean() + TINY
    return [1.0 / (part / mean).clamp_min(LEAST) for part in left]


def _distances(students: Sequence[Student]) -> Tensor:
    """Of the students' latents [B] from their teachers', as logarithms of shares of the latter's norms: a few do not rule the mean."""
    far = torch.cat([(student.x - student.teacher.x).flatten(1).norm(dim=1) for student in students])
    whole = torch.cat([student.teacher.x.flatten(1).norm(dim=1) for student in students])
    return (far.clamp_min(TINY) / whole).log().cpu()
