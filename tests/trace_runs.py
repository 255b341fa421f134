"""Smooth trajectories without a network, and what a calibration knows of them."""

import math

import torch
from pack.cache_core import Schedule
from pack.cache_core.trace import Statistics
from pack.cache_core.trace.fit import DEPTH


def trajectories(schedule, seed=0, rows=6):
    """Euler trajectories [rows, 4, 8, 8] of a smooth velocity that follows the noise level alone."""
    generator = torch.Generator().manual_seed(seed)
    start, *bases = (torch.randn(rows, 4, 8, 8, generator=generator) for _ in range(6))
    waves = (lambda s: 1.0, lambda s: s, lambda s: math.sin(3 * s), lambda s: s**3, lambda s: math.exp(-4 * s))
    velocities = [sum(wave(s) * base for wave, base in zip(waves, bases, strict=True)) for s in schedule.sigmas[:-1]]
    return start, velocities


def statistics(schedule, levels=(), **kwargs):
    start, velocities = trajectories(schedule, **kwargs)
    return Statistics.of(start, velocities, schedule.sigmas[:-1], levels, schedule.sigmas[-1])


class World:
    """A model in closed form on latents [6, 4, 8, 8]: a smooth path, and an answer to drift that mixes channels.

    Sampled by Euler's method, or where `solver` is given, by DPM-Solver++(2M), which that is to be.
    """

    def __init__(self, schedule: Schedule, solver=None) -> None:
        self.solver = solver
        random = torch.Generator().manual_seed(5)
        self.sigmas = schedule.sigmas
        self.begin, *self.bases = (torch.randn(6, 4, 8, 8, generator=random) for _ in range(9))
        self.mixing = torch.randn(4, 4, generator=random)
        self.teacher, x, self.visited = [self.begin], self.begin, []
        pictures = []
        for n, sigma in enumerate(self.sigmas[:-1]):
            x = self.step(n, x, self.path(sigma), pictures)
            self.teacher.append(x)

    def step(self, n: int, x: torch.Tensor, v: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
        """The latent after step n at velocity `v`; of 2M (arXiv:2211.01095, algorithm 2) with the `pictures` predicted so far."""
        sigma, after = self.sigmas[n], self.sigmas[n + 1]
        if self.solver is None:
            return x + (after - sigma) * v
        pictures.append(x - sigma * v)
        shown, share = pictures[-1], 1 - after / sigma
        if n > 0 and after > 0.0:
            r = math.log(self.sigmas[n - 1] / sigma) / math.log(sigma / after)
            shown = (1 + 1 / (2 * r)) * pictures[-1] - 1 / (2 * r) * pictures[-2]
        return after / sigma * x + share * shown

    def path(self, sigma: float) -> torch.Tensor:
        waves = (1.0, sigma, *(math.sin(turns * sigma + turns) for turns in (5, 7, 9, 11, 13)), math.exp(-4 * sigma))
        return sum(wave * base for wave, base in zip(waves, self.bases, strict=True))

    def velocity(self, n: int, x: torch.Tensor) -> torch.Tensor:
        return self.path(self.sigmas[n]) + self.answer(x - self.teacher[n])

    def answer(self, drift: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,bjhw->bihw", self.mixing, drift) - drift

    def velocities(self) -> list[torch.Tensor]:
        return [self.path(sigma) for sigma in self.sigmas[:-1]]

    def sample(self, made) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The final latent of a cached sampling by the plan `made`, and the velocities that it computed."""
        x, known, computed, pictures = self.begin, [], [], []
        for n in range(len(self.sigmas) - 1):
            if n in made.computed:
                computed.append(self.velocity(n, x))
                known = [*known, computed[-1]][-DEPTH:]
            v = known[-1]
            if n in made.weights:
                (row,), parts = made.weights[n], [*known, x]
                v = sum(weight * part for weight, part in zip(row, parts, strict=True))
                if n in made.mixing:
                    (table,) = torch.from_numpy(made.mixing[n]).float()  # channel answered, part, channel seen
                    for p, part in enumerate(parts):
                        v = v + torch.einsum("ck,bkhw->bchw", table[:, p], part)
            x = self.step(n, x, v, pictures)
        return x, computed

    def error(self, made) -> float:
        far = (self.sample(made)[0] - self.teacher[-1]).flatten(1).norm(dim=1)
        return float((far / self.teacher[-1].flatten(1).norm(dim=1)).log().mean().exp())

    def statistics(self) -> Statistics:
        return Statistics.of(self.begin, self.velocities(), self.sigmas[:-1], (), 0.0)

    # What a rehearsal asks of its stage, a trajectory at a time.
    @property
    def batches(self) -> int:
        return len(self.begin)

    def start(self, number: int) -> torch.Tensor:
        return self.begin[number : number + 1]

    def taught(self, number: int, step: int) -> torch.Tensor:
        return self.velocities()[step][number : number + 1]

    def visit(self, number: int, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.visited.append((number, sigma))
        n = self.sigmas.index(sigma)
        drift = x - self.teacher[n][number : number + 1]
        return self.taught(number, n) + self.answer(drift)
