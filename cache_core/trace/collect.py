"""Collects the trajectories of uncached samplings, one batch at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..errors import CacheError
from ..masks import budget, rescale
from ..solver import EULER, Solver
from ..tables.masks import FLUX_GOLDEN, FLUX_LEMICA, WAN_GOLDEN, WAN_LEMICA
from ..types import Schedule
from .bands import Level
from .calibration import Calibration, Levels, Rehearsed, universal
from .chain import chained
from .fit import fit
from .rehearse import Stage, best, spared
from .search import cost, search
from .statistics import Statistics

TRIES = 400  # candidates that a mask's search tries
CANDIDATES = 3  # masks that are rehearsed for a speed
SPEEDS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)  # that masks are searched for
PUBLISHED = (*FLUX_LEMICA, *WAN_LEMICA, *FLUX_GOLDEN, *WAN_GOLDEN)  # masks that a far search starts from too


@dataclass(slots=True)
class Trajectory:
    """Starting latent and velocities, each [B, C, (F,) H, W], of one sampling, kept in float32 on the processor.

    That is steps + 1 latents: 50 MB for a Flux picture of 1024 x 1024 at 50 steps, 430 MB for 81 frames of Wan at 480p.
    """

    start: Tensor | None = None
    sigmas: list[float] = field(default_factory=list)
    velocities: list[Tensor] = field(default_factory=list)

    def add(self, sigma: float, x: Tensor, velocity: Tensor) -> None:
        """One evaluation. A second one at a noise level, or one that goes back up, is a sampler's inner step and left out."""
        if self.sigmas and sigma >= self.sigmas[-1] * (1.0 - 1e-4):
            return
        if self.start is None:
            self.start = x.detach().float().cpu().clone()
        self.sigmas.append(sigma)
        self.velocities.append(velocity.detach().float().cpu())

    def statistics(self, levels: tuple[Level, ...], end: float, fitted: bool = False) -> Statistics:
        """What is kept of it, or, `fitted`, of those of its batch that are not held out. Raises CacheError if nothing was sampled."""
        if self.start is None or len(self.sigmas) < 2:
            raise CacheError(f"A calibration needs a sampling of two steps or more and saw {len(self.sigmas)}. Use more steps.")
        rows = [row for row, out in enumerate(spared(len(self.start))) if not (fitted and out)]
        return Statistics.of(self.start[rows], [velocity[rows] for velocity in self.velocities], self.sigmas, levels, end)


def masks(
    statistics: Statistics, tries: int = TRIES, watch: Callable[[], object] = lambda: None, solver: Solver | None = None
) -> tuple[Levels, ...]:
    """The best mask found for each of SPEEDS on the statistics' own schedule; `watch` as in `search`."""
    total = len(statistics.sigmas)
    counts = sorted({budget(total, speed) for speed in SPEEDS} - {total})
    found = [search(cost(statistics, solver=solver), total, count, (), tries, watch=watch) for count in counts]
    return tuple(Levels(tuple(statistics.sigmas[n] for n in mask), total) for mask in found)


def calibrated(
    name: str,
    statistics: Statistics,
    about: Mapping[str, Any],
    tries: int = TRIES,
    watch: Callable[[], object] = lambda: None,
    solver: Solver | None = None,
) -> Calibration:
    """A calibration of `statistics` with its masks searched, for `solver` (None: Euler's)."""
    return Calibration(name, statistics, masks(statistics, tries, watch, solver), about)


def rehearsed(
    calibration: Calibration,
    speeds: Iterable[float],
    stage: Stage,
    candidates: int = CANDIDATES,
    watch: Callable[[], object] = lambda: None,
    mixes: bool = True,
    fitted: Statistics | None = None,
) -> Calibration:
    """The same with plans for `speeds` that were rehearsed on its own schedule; `stage` has its trajectories.

    Several masks go to the rehearsals, the calibration's own, the universal one and what searches that go far found: a search goes by a
    guess of what the model answers off the path, and a rehearsal measures it. Each is tried with the weights of the guess too.
    Unless it `mixes`, all channels go by one weight. `fitted` are the statistics of the trajectories that a rehearsal does not hold
    out: what is searched and guessed for it goes by them.
    """
    statistics = calibration.statistics if fitted is None else fitted
    schedule = Schedule((*statistics.sigmas, statistics.end), stage.solver)
    counts = sorted({budget(schedule.total, speed) for speed in speeds} - {schedule.total})
    plans = []
    for count in counts:
        masks = {calibration.computed(schedule, count), universal().computed(schedule, count)}
        starts = [sorted(mask) for mask in masks] + [sorted(rescale(mask, schedule, count)) for mask in PUBLISHED]
        starts += [chained(statistics, count)] if count > 2 else []
        for seed in range(1, candidates - 1):
            costs = cost(statistics, solver=stage.solver)
            masks.add(frozenset(search(costs, schedule.total, count, starts, TRIES, watch, far=seed)))
        plans.append(best(stage, [fit(statistics, mask, solver=stage.solver) for mask in sorted(masks, key=sorted)], mixes))
    solver = stage.solver.name if stage.solver else EULER
    return replace(calibration, plans=tuple(Rehearsed(schedule.sigmas, made, solver) for made in plans))


def visits(steps: int, speeds: Iterable[float]) -> int:
    """How often `rehearsed` visits each trajectory at most."""
    return 2 * CANDIDATES * sum({budget(steps, speed) for speed in speeds} - {steps})
