"""Masks by dynamic programming, against all masks there are."""

import itertools

import numpy as np
import pytest
import torch
from pack.cache_core.trace import Statistics, even
from pack.cache_core.trace.bands import LEVELS, split
from pack.cache_core.trace.chain import Errors, chained
from pack.cache_core.trace.fit import response
from policy_runs import flow
from trace_runs import World


def statistics(total, levels):
    world = World(flow(total))
    return Statistics.of(world.begin, world.velocities(), world.sigmas[:-1], levels, 0.0), world


def missed(world, known, gap, levels):
    """What the best weights on the velocities at the steps `known` leave of the way over the steps `gap`, squared, on stacked numbers.

    As large as drift grows by the guess from there to the end.
    """
    velocities, total = world.velocities(), 0.0
    way = sum(((world.sigmas[n + 1] - world.sigmas[n]) * velocities[n] for n in gap), torch.zeros_like(velocities[0]))
    parts = torch.stack([velocities[n] for n in known])
    for table, goal in zip(split(parts, levels), split(way, levels), strict=True):
        rows = table.flatten(1).double().T.numpy()
        found = np.linalg.lstsq(rows, goal.flatten().double().numpy(), rcond=None)[0]
        total += float(((rows @ found - goal.flatten().double().numpy()) ** 2).mean())
    for n in range(gap[-1] + 1, len(velocities)):
        total *= (1.0 + (world.sigmas[n + 1] - world.sigmas[n]) * response(world.sigmas[n])[0]) ** 2
    return total


@pytest.mark.parametrize("levels", [(), LEVELS])
def test_a_local_error_is_what_the_best_weights_leave_of_the_way(levels):
    found, world = statistics(8, levels)
    errors = Errors(found)
    assert errors.first()[4] == pytest.approx(missed(world, [0], [1, 2, 3], levels), rel=1e-4)
    assert errors.after(3)[1, 7] == pytest.approx(missed(world, [1, 3], [4, 5, 6], levels), rel=1e-3)
    assert errors.after(3)[0, 8] == pytest.approx(missed(world, [0, 3], [4, 5, 6, 7], levels), rel=1e-3)  # to the end
    assert errors.after(3)[1, 4] == 0.0  # no step between them


@pytest.mark.parametrize("count", [3, 4, 6])
def test_no_mask_has_a_lesser_sum(count):
    found, _ = statistics(9, ())
    errors = Errors(found)

    def cost(mask):
        return errors.first()[mask[1]] + sum(errors.after(b)[a, c] for a, b, c in zip(mask, mask[1:], mask[2:], strict=False))

    masks = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), count - 2)]
    assert len(masks) > 1
    best = min(masks, key=cost)
    assert chained(found, count) == list(best)
    assert cost(best) <= cost(even(9, count))
