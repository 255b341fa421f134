"""Rehearsals: a calibration's trajectories sampled with a mask, all in step, each step fitted to where they really are.

`fit` guesses what the model answers off the uncached path. In a rehearsal it answers itself: computed steps evaluate it at the
students' own latents, and the weights of a step are found there before the students go on. A rehearsal costs the computed steps
alone. Its steps are Euler's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..measure import TINY
from .bands import Level
from .fit import DEPTH, Plan, order_one
from .mixing import Problem, answer, mix, table
from .statistics import Array

LEAST = 1e-3  # share of the mean below which what is left of a trajectory's goal makes no difference


class Stage(Protocol):
    """What a rehearsal needs: recorded trajectories in numbered batches, and the model."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, the one at the end too."""
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

    x: Tensor
    teacher: Tensor
    anchors: list[Tensor] = field(default_factory=list)

    @property
    def parts(self) -> list[Tensor]:
        """Regressors: anchors, oldest first, then the latent."""
        return [*self.anchors, self.x]

    def goal(self, stride: float) -> Tensor:
        """The velocity [B, C, (F,) H, W] that leads to where the teacher is after this step."""
        return (self.teacher - self.x) / stride


def rehearse(stage: Stage, computed: Iterable[int], levels: tuple[Level, ...], depth: int = DEPTH, mixes: bool = True) -> Plan:
    """The plan that computes these steps, with the error that it had. Unless it `mixes`, all channels go by one weight."""

    def fitted(step: int, students: Sequence[Student], stride: float, prior: Array) -> tuple[Array, Array | None]:
        return _fitted(students, stride, levels, prior, mixes)

    return _sampled(stage, computed, levels, depth, fitted)


def tried(stage: Stage, plan: Plan, depth: int = DEPTH) -> Plan:
    """The same plan, with the error and the exams that it really had."""

    def given(step: int, students: Sequence[Student], stride: float, prior: Array) -> tuple[Array, Array | None]:
        return np.array(plan.weights[step]), plan.mixing.get(step)

    return _sampled(stage, plan.computed, plan.levels, depth, given)


def best(stage: Stage, guesses: Iterable[Plan], mixes: bool = True) -> Plan:
    """Of plans that were fitted to a guess, and of their masks rehearsed, the one that really ended nearest to the uncached latents."""
    ended = [made for guess in guesses for made in (rehearse(stage, guess.computed, guess.levels, mixes=mixes), tried(stage, guess))]
    return min(ended, key=lambda plan: plan.error)


# Weights [bands, P] of a step, and what mixing adds: from its number, the students, the stride and the prior [P].
Choice = Callable[[int, Sequence[Student], float, Array], tuple[Array, Array | None]]


def _sampled(stage: Stage, computed: Iterable[int], levels: tuple[Level, ...], depth: int, choose: Choice) -> Plan:
    """The plan whose weights `choose` gives, step after step, with the error that it had."""
    sigmas, mask = np.array(stage.sigmas), sorted(computed)
    students = [Student(start := stage.start(number).float(), start) for number in range(stage.batches)]
    weights, anchors, exams, mixing = {}, {}, {}, {}
    known: list[int] = []
    for n in range(len(sigmas) - 1):
        stride = float(sigmas[n + 1] - sigmas[n])
        if n in mask:
            line = order_one(sigmas[known], sigmas[n])[:-1] if len(known) > 1 else None
            exam = _visit(stage, students, float(sigmas[n]), line, depth)
            known = [*known, n][-depth:]
            if exam is not None:
                exams[n] = exam
        for number, student in enumerate(students):
            student.teacher = student.teacher + stride * stage.taught(number, n).float()
        if len(known) > 1:
            found, mixed = choose(n, students, stride, order_one(sigmas[known], sigmas[n]))
            weights[n], anchors[n] = tuple(map(tuple, found.tolist())), tuple(known)
            if mixed is not None:
                mixing[n] = mixed
        made = torch.from_numpy(table(np.array(weights[n]), mixing.get(n))).float() if n in weights else None
        for student in students:
            velocity = student.anchors[-1] if made is None else answer(student.parts, made.to(student.x.device), levels)
            student.x = student.x + stride * velocity
    tables = (MappingProxyType(weights), MappingProxyType(anchors))
    return Plan(frozenset(mask), *tables, levels, _distance(students), MappingProxyType(exams), MappingProxyType(mixing))


def _visit(stage: Stage, students: Sequence[Student], sigma: float, line: Array | None, depth: int) -> float | None:
    """Compute a step for all students; the relative error that the forecast by the weights `line` of their anchors would have had."""
    missed = total = 0.0
    for number, student in enumerate(students):
        seen = stage.visit(number, student.x, sigma).float()
        if line is not None:
            forecast = sum(weight * anchor for weight, anchor in zip(line.tolist(), student.anchors, strict=True))
            missed += float((forecast - seen).square().sum())
            total += float(seen.square().sum())
        student.anchors = [*student.anchors, seen][-depth:]
    return None if line is None else math.sqrt(missed / total)


def _fitted(students: Sequence[Student], stride: float, levels: tuple[Level, ...], prior: Array, mixes: bool) -> tuple[Array, Array | None]:
    """Weights [bands, P] that lead all students back to their teachers in this step, and what mixing adds if both halves have some."""
    halves: list[Problem | None] = [None, None]
    before, shares = 0, _shares(students, stride, prior)
    for student, share in zip(students, shares, strict=True):
        scale = share.sqrt().reshape(-1, *[1] * (student.x.ndim - 1))
        parts, goal = torch.stack(student.parts) * scale, student.goal(stride) * scale
        for half in range(2):
            rows = slice((half - before) % 2, None, 2)
            if len(goal[rows]):
                made = Problem.of(parts[:, rows], goal[rows], levels)
                halves[half] = made if (known := halves[half]) is None else known + made
        before += len(goal)
    problems = [half for half in halves if half is not None]
    whole = problems[0] if len(problems) == 1 else problems[0] + problems[1]
    weights = whole.weights(prior)
    return weights, mix(problems, weights) if mixes and len(problems) == 2 and whole.rows > 1 else None


def _shares(students: Sequence[Student], stride: float, prior: Array) -> list[Tensor]:
    """What each trajectory counts [B]: the inverse of what order 1 leaves of its goal, so that a few bad ones do not rule the fit."""
    left, made = [], torch.from_numpy(table(prior[None])).float()
    for student in students:
        line = answer(student.parts, made.to(student.x.device), ())
        left.append((student.goal(stride) - line).square().flatten(1).sum(1))
    mean = torch.cat(left).mean() + TINY
    return [1.0 / (part / mean).clamp_min(LEAST) for part in left]


def _distance(students: Sequence[Student]) -> float:
    """Of the students' latents from their teachers', as a share of the latter's norm: the geometric mean, so that a few do not rule it."""
    far = torch.cat([(student.x - student.teacher).flatten(1).norm(dim=1) for student in students])
    whole = torch.cat([student.teacher.flatten(1).norm(dim=1) for student in students])
    return float((far.clamp_min(TINY) / whole).log().mean().exp())
