"""Bands of clips: blocks that span frames beside those of a single one."""

import math
from itertools import pairwise

import pytest
import torch
from pack.cache_core import CacheError
from pack.cache_core.history import History, Placement
from pack.cache_core.predictors.fitted import combine
from pack.cache_core.trace import Statistics, calibrated, fit, load, save
from pack.cache_core.trace.bands import TIMED, join, split
from policy_runs import flow
from trace_runs import trajectories

SHAPE = (2, 3, 5, 6, 7)  # neither the frames nor the sides are whole blocks


def clip(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def plain_means(x, side, frames):
    """Every number replaced by its block's mean, in plain loops."""
    found = torch.empty_like(x)
    for t in range(0, x.shape[-3], frames):
        for row in range(0, x.shape[-2], side):
            for column in range(0, x.shape[-1], side):
                place = (..., slice(t, t + frames), slice(row, row + side), slice(column, column + side))
                found[place] = x[place].mean((-3, -2, -1), keepdim=True)
    return found


@pytest.mark.parametrize("frames", [2, 8])
def test_bands_of_a_clip_are_those_of_plain_loops_and_orthogonal(frames):
    x, levels = clip(), (2, 4, (4, frames))
    parts = split(x, levels)
    means = [plain_means(x, side, count) for side, count in ((2, 1), (4, 1), (4, frames))]
    for found, wanted in zip(parts, [x - means[0], means[0] - means[1], means[1] - means[2], means[2]], strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(parts.sum(0), x)
    rows = parts.flatten(1).double()
    products = rows @ rows.T
    torch.testing.assert_close(products, torch.diag(products.diag()), atol=1e-4, rtol=0)


def test_a_clip_is_joined_from_a_band_of_each():
    whole = [clip(seed) for seed in range(4)]
    wanted = sum(split(x, TIMED)[band] for band, x in enumerate(whole))
    steps = [whole[0], *(new - old for old, new in pairwise(whole))]
    torch.testing.assert_close(join(steps, TIMED), wanted)


def test_a_picture_has_no_bands_along_time():
    start, velocities = trajectories(flow(8))
    with pytest.raises(CacheError, match="span frames"):
        Statistics.of(start, velocities, flow(8).sigmas[:-1], TIMED, 0.0)


def flickering(schedule):
    """Clips [2, 3, 5, 6, 7] on a path whose mean over time moves in another way than the rest."""
    start, slow, fast = clip(0), clip(1), clip(2)
    still = slow.mean(-3, keepdim=True).expand_as(slow)
    moving = fast - fast.mean(-3, keepdim=True)
    return start, [math.cos(2 * sigma) * still + math.cos(17 * sigma) * moving for sigma in schedule.sigmas[:-1]]


def test_a_calibration_with_bands_along_time_is_kept_and_forecasts_each_band_by_its_own_weights(tmp_path):
    schedule, mask = flow(20), [0, 1, 4, 7, 10, 13, 16, 19]
    start, velocities = flickering(schedule)
    known = Statistics.of(start, velocities, schedule.sigmas[:-1], TIMED, 0.0)
    save(calibrated("mine", known, {}, tries=2), tmp_path / "mine.safetensors")
    assert load(tmp_path / "mine.safetensors").statistics.levels == TIMED
    made = fit(known, mask)
    *_, moving, still = made.weights[11]
    assert moving != pytest.approx(still, abs=1e-3)
    history = History(5, Placement())
    for step in made.anchors[11]:
        history.push(schedule.sigmas[step], velocities[step])
    parts = [*(velocities[step] for step in made.anchors[11]), start]
    wanted = sum(
        weight * split(part, TIMED)[band] for band, row in enumerate(made.weights[11]) for weight, part in zip(row, parts, strict=True)
    )
    torch.testing.assert_close(combine(history, made, 11, start), wanted, atol=1e-4, rtol=1e-4)
