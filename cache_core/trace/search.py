"""The best steps to compute, searched with weights refitted for each candidate. It needs statistics and no model."""

import random
from collections.abc import Callable, Iterable

from .fit import fit
from .statistics import Statistics

NEAR = 4  # steps that most moves stay within


def even(total: int, count: int) -> list[int]:
    """`count` of `total` steps, the first and the last among them, as even as can be."""
    if count == 1:
        return [0]
    return sorted({round(n * (total - 1) / (count - 1)) for n in range(count)})


def cost(statistics: Statistics, fitted: bool = True) -> Callable[[list[int]], float]:
    """The expected error of a mask's plan; of order 1 on it unless `fitted`."""
    return lambda mask: fit(statistics, mask, fitted=fitted).error


def search(
    costs: Callable[[list[int]], float],
    total: int,
    count: int,
    starts: Iterable[list[int]] = (),
    tries: int = 400,
    seed: int = 0,
    watch: Callable[[], object] = lambda: None,
) -> list[int]:
    """The mask of `count` steps with the lowest cost found from the best of `starts` and an even one, moving a step at a time.

    The first and the last step stay. `watch` is called at every try and may raise to stop.
    """
    rng = random.Random(seed)
    mask = min([even(total, count), *(start for start in starts if len(start) == count)], key=costs)
    best = costs(mask)
    if not 2 < count < total:
        return mask
    for _ in range(tries):
        watch()
        old = rng.choice(mask[1:-1])
        free = [step for step in range(total) if step not in mask]
        near = [step for step in free if abs(step - old) <= NEAR]
        new = rng.choice(near if near and rng.random() < 0.7 else free)
        trial = sorted({*mask, new} - {old})
        found = costs(trial)
        if found < best:
            best, mask = found, trial
    return mask
