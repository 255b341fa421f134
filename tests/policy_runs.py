"""Synthetic runs of a stream: what a policy is shown, and what it does."""

import math

import torch
from pack.cache_core import Recipe, Schedule, Site, Step
from pack.cache_core.predictors import Hold
from pack.cache_core.stream import Stream


def flow(total, shift=3.0, start=1.0, end=0.0):
    """Sigmas of a rectified flow of time shift `shift`; times from `start` to `end`."""
    times = [start + (end - start) * n / total for n in range(total + 1)]
    return Schedule(tuple(shift * t / (1 + (shift - 1) * t) for t in times))


def walk(kind, total=28, rows=1, seed=0):
    """What a run shows: for each step an input [rows, 6, 4], a probe and an output like it."""
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(rows, 6, 4, generator=generator, dtype=torch.float64)

    bases, steps = [noise() for _ in range(6)], []
    for n in range(total):
        t = 1 - n / total
        if kind == "smooth":
            x = bases[0] + t * bases[1]
            steps.append((x, bases[2] + 0.5 * math.sin(3 * t) * bases[3], bases[4] + t**3 * bases[5] + 0.2 * x))
        else:
            last = steps[-1] if steps else bases[:3]
            steps.append(tuple(value + 0.12 * torch.rand(1, generator=generator).item() * noise() for value in last))
    return steps


def play(policy, steps, schedule=None, predictor=None, sigmas=None):
    """The verdicts of a policy on a run, and what was done as letters: C computed, r reused."""
    schedule = schedule or flow(len(steps))
    recipe = Recipe(policy, predictor or Hold(), Site.STACK, head=1)
    stream, verdicts = Stream(recipe), []
    for n, (sigma, (x, probe, y)) in enumerate(zip(sigmas or schedule.sigmas[:-1], steps, strict=True)):
        verdicts.append(stream.propose(Step(schedule, sigma, n), probe, x))
        if verdicts[-1].reuse:
            stream.reuse(x)
        else:
            stream.record(x, y)
    return "".join("r" if verdict.reuse else "C" for verdict in verdicts), verdicts
