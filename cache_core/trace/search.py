"""The best steps to compute, searched with weights refitted for each candidate. It needs statistics and no model."""

import random
from collections.abc import Callable, Iterable
from itertools import pairwise, product

import numpy as np

from ..solver import Solver
from .fit import Manner, fit
from .statistics import Statistics

NEAR = 4  # steps that most moves of one step stay within
RUN = 6  # steps that may move together
DENSITIES = (0.3, 0.45, 0.65, 1.0)  # exponents of the densities that a search starts from, at the start and at the end: 1 is even
GRAIN = 4000  # points that a density is summed up at


def even(total: int, count: int) -> list[int]:
    """`count` of `total` steps, the first and the last among them, as even as can be."""
    if count == 1:
        return [0]
    return sorted({round(n * (total - 1) / (count - 1)) for n in range(count)})


def crowded(total: int, count: int, start: float, end: float) -> list[int]:
    """`count` of `total` steps, the first and the last among them, as densely as a beta density of these two exponents."""
    time = (np.arange(GRAIN) + 0.5) / GRAIN
    share = np.concatenate([[0.0], np.cumsum(time ** (start - 1.0) * (1.0 - time) ** (end - 1.0))])
    wanted = np.interp(np.linspace(0.0, 1.0, count), share / share[-1], np.linspace(0.0, total - 1.0, GRAIN + 1))
    mask: list[int] = []
    for rank, place in enumerate(wanted.tolist()):
        lowest = mask[-1] + 1 if mask else 0
        mask.append(min(max(round(place), lowest), total - count + rank))
    return mask


def cost(statistics: Statistics, fitted: bool = True, solver: Solver | None = None) -> Callable[[list[int]], float]:
    """The expected error of a mask's plan under `solver`; of order 1 on it unless `fitted`."""
    manner = Manner(fitted=fitted)
    return lambda mask: fit(statistics, mask, manner, solver).error


def search(
    costs: Callable[[list[int]], float],
    total: int,
    count: int,
    starts: Iterable[list[int]] = (),
    tries: int = 400,
    watch: Callable[[], object] = lambda: None,
    far: int | None = None,
) -> list[int]:
    """The mask of `count` steps with the lowest cost found from the best of `starts` and an even one, moving a step at a time.

    The first and the last step stay. `watch` is called at every try; it may raise, and where it answers True the search ends. With a
    seed `far` it starts from masks that crowd at the ends too and moves runs of steps as well, since a single step seldom has a better
    place while its neighbours stay. That comes to lower costs, which are worth as much as the costs are true: it is for masks that
    are rehearsed.
    """
    rng, given = random.Random(far or 0), [even(total, count), *(start for start in starts if len(start) == count)]
    if far is not None:
        given += [crowded(total, count, *ends) for ends in product(DENSITIES, DENSITIES)]
    mask = min(given, key=costs)
    best = costs(mask)
    if not 2 < count < total:
        return mask
    for _ in range(tries):
        if watch():
            break
        together = far is not None and rng.random() < 0.5
        trial = _run_moved(mask, rng) if together else _step_moved(mask, total, rng)
        found = costs(trial)
        if found < best:
            best, mask = found, trial
    return mask


def _run_moved(mask: list[int], rng: random.Random) -> list[int]:
    """The mask with a run of its steps a step earlier or later; as it is if two of them would meet."""
    first = rng.randrange(1, len(mask) - 1)
    last = rng.randrange(first, min(len(mask) - 1, first + RUN))
    by = rng.choice((-1, 1))
    trial = [step + by if first <= rank <= last else step for rank, step in enumerate(mask)]
    return trial if all(a < b for a, b in pairwise(trial)) else mask


def _step_moved(mask: list[int], total: int, rng: random.Random) -> list[int]:
    """The mask with one step elsewhere."""
    old = rng.choice(mask[1:-1])
    free = [step for step in range(total) if step not in mask]
    near = [step for step in free if abs(step - old) <= NEAR]
    new = rng.choice(near if near and rng.random() < 0.7 else free)
    return sorted({*mask, new} - {old})
