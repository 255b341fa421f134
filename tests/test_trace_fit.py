"""TRACE's fits in the space of inner products against plain least squares on real tensors, and the statistics they are made from."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pack.cache_core import CacheError
from pack.cache_core.trace import Statistics, Terms, Trajectory, cost, even, fit, search
from pack.cache_core.trace import fit as fits
from pack.cache_core.trace.bands import join, split
from pack.cache_core.trace.fit import DEPTH, Manner
from pack.cache_core.trace.search import crowded
from policy_runs import flow
from trace_runs import statistics, trajectories

fit_module = __import__("sys").modules[fits.__module__]


def plain_fit(start, velocities, sigmas, mask, *, depth=DEPTH, ridge=1e-4, returns=True, state=True, corrects=True):
    """The sequential least-squares fit on the tensors themselves; returns weights by step and the final latent."""
    x, teacher, known, table = start, start, [], {}
    for n, velocity in enumerate(velocities):
        stride = sigmas[n + 1] - sigmas[n]
        if n in mask:
            known = [*known, (sigmas[n], velocity)][-depth:]
        answer = known[-1][1]
        if len(known) > 1:
            goal = ((teacher + stride * velocity - x) / stride if returns else velocity).flatten().double()
            parts = torch.stack([part.flatten().double() for part in [*(v for _, v in known), *([x] if state else [])]])
            (a, _), (b, _) = known[-2:]
            line = [(sigmas[n] - b) / (a - b), (sigmas[n] - a) / (b - a)]
            prior = torch.tensor([0.0] * (len(known) - 2) + line + [0.0] * state, dtype=torch.float64)
            gram = parts @ parts.T
            pull = ridge * gram.diag().mean()
            found = torch.linalg.solve(gram + pull * torch.eye(len(parts)), parts @ goal + pull * prior)
            found = found if corrects or n not in mask else prior
            table[n] = torch.cat([found, torch.zeros(len(known) + 1 - len(found), dtype=torch.float64)])
            answer = sum(weight * part for weight, part in zip(table[n].float(), [*(v for _, v in known), x], strict=True))
        x, teacher = x + stride * answer, teacher + stride * velocity
    return table, x, teacher


@pytest.fixture
def deaf(monkeypatch):
    """A model whose velocity does not depend on the latent."""
    monkeypatch.setattr(fit_module, "SLOPES", (0.0, 0.0))
    monkeypatch.setattr(fit_module, "UNKNOWN", (0.0, 0.0))


def test_the_fit_in_inner_products_is_the_fit_on_the_tensors(deaf):
    schedule, mask = flow(20), [0, 3, 5, 7, 10, 12, 15, 19]
    start, velocities = trajectories(schedule)
    found = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0), mask)
    table, x, teacher = plain_fit(start, velocities, schedule.sigmas, mask)
    assert set(found.weights) == set(table) == set(range(3, 20))
    for step, row in table.items():
        assert found.weights[step][0] == pytest.approx(row.tolist(), rel=1e-3, abs=1e-4)
    assert found.error == pytest.approx(float((x - teacher).norm() / teacher.norm()), rel=0.02)


def test_anchors_name_the_computed_steps_that_weights_are_for(deaf):
    found = fit(statistics(flow(12)), [0, 2, 4, 5, 6, 9, 11])
    assert found.anchors[2] == found.anchors[3] == (0, 2)
    assert found.anchors[10] == (2, 4, 5, 6, 9)
    assert 1 not in found.anchors


@pytest.mark.parametrize("left_out", ["returns", "state", "corrects"])
def test_an_ablation_is_the_plain_fit_without_that_part(deaf, left_out):
    schedule, mask = flow(20), [0, 3, 5, 7, 10, 12, 15, 19]
    start, velocities = trajectories(schedule)
    terms = {left_out: False}
    found = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0), mask, Manner(terms=Terms(**terms)))
    table, _, _ = plain_fit(start, velocities, schedule.sigmas, mask, **terms)
    for step, row in table.items():
        assert found.weights[step][0] == pytest.approx(row.tolist(), rel=1e-3, abs=1e-4)
    whole = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0), mask)
    assert any(found.weights[step] != whole.weights[step] for step in table)


def test_the_fit_is_closer_than_order_1_and_a_searched_mask_closer_than_an_even_one():
    known = statistics(flow(30))
    fitted, plain = cost(known), cost(known, fitted=False)
    mask = search(fitted, 30, 10, tries=60)
    assert fitted(even(30, 10)) < plain(even(30, 10))
    assert fitted(mask) < fitted(even(30, 10))
    assert mask[0] == 0
    assert mask[-1] == 29
    assert len(set(mask)) == 10


@pytest.mark.parametrize("ends", [(1.0, 1.0), (0.3, 1.0), (1.0, 0.3), (0.3, 0.3)])
@pytest.mark.parametrize(("total", "count"), [(50, 12), (50, 49), (20, 3), (8, 7)])
def test_a_mask_crowds_where_its_density_is_high_and_has_every_step_once(total, count, ends):
    mask = crowded(total, count, *ends)
    assert mask == sorted(set(mask))
    assert (len(mask), mask[0], mask[-1]) == (count, 0, total - 1)
    if count == 12:
        early, late = sum(step < total / 3 for step in mask), sum(step > 2 * total / 3 for step in mask)
        assert (early > late, early < late) == (ends[0] < ends[1], ends[0] > ends[1])


def test_an_even_density_is_an_even_mask():
    assert crowded(50, 12, 1.0, 1.0) == even(50, 12)


def test_a_search_moves_steps_together_where_none_has_a_better_place_alone():
    shape = [3, 1, 4]

    def costs(mask):
        gaps = [b - a for a, b in pairwise(mask[1:-1])]
        return 100.0 * sum(abs(gap - wanted) for gap, wanted in zip(gaps, shape, strict=True)) + abs(mask[1] - 12)

    assert search(costs, 30, 6, [[0, 4, 7, 8, 12, 29]], far=0) == [0, 12, 15, 16, 20, 29]


def test_a_search_starts_from_the_best_mask_that_it_is_given():
    given = [0, 3, 4, 11, 29]
    assert search(lambda mask: float(mask != given), 30, 5, [[0, 1, 2, 3, 29], given, [0, 1, 29]], tries=0) == given


def test_only_a_far_search_starts_from_masks_that_crowd_at_the_ends():
    wanted = crowded(30, 8, 0.45, 0.65)
    assert search(lambda mask: float(mask != wanted), 30, 8, tries=0, far=0) == wanted
    assert search(lambda mask: float(mask != wanted), 30, 8, tries=0) == even(30, 8) != wanted


def test_a_straight_trajectory_costs_nothing():
    schedule = flow(16)
    start, direction = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    known = Statistics.of(start, [direction] * 16, schedule.sigmas[:-1], (), 0.0)
    assert fit(known, [0, 1, 15]).error < 1e-4


def test_a_model_that_answers_to_drift_is_expected_to_stray_further(deaf):
    known, mask = statistics(flow(30)), [0, 1, 12, 16, 20, 25, 29]
    indifferent = cost(known)(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "UNKNOWN", (0.5, 0.0))
        assert cost(known)(mask) > indifferent


def test_statistics_carry_over_to_another_schedule():
    fine, coarse = flow(60), flow(17)
    carried, own = statistics(fine).at(coarse), statistics(coarse)
    np.testing.assert_allclose(carried.gram, own.gram, rtol=2e-3, atol=2e-3)
    assert carried.sigmas == coarse.sigmas[:-1]
    np.testing.assert_array_equal(statistics(fine).at(fine).gram, statistics(fine).gram)


def test_statistics_of_a_schedule_that_starts_late_start_from_the_latent_there():
    whole, part = flow(60), flow(20, start=0.5)
    start, velocities = trajectories(whole)
    x = start
    for a, b, velocity in zip(whole.sigmas, whole.sigmas[1:], velocities, strict=False):
        x = x + (max(b, part.sigmas[0]) - max(a, part.sigmas[0])) * velocity
    carried = Statistics.of(start, velocities, whole.sigmas[:-1], (), 0.0).at(part)
    assert carried.gram[0, 0, 0] == pytest.approx(float(x.square().mean()), rel=1e-3)


def test_statistics_join_with_the_weight_of_their_trajectories():
    schedule = flow(12)
    start, velocities = trajectories(schedule, rows=6)
    sigmas = schedule.sigmas[:-1]
    two, four = (Statistics.of(start[rows], [v[rows] for v in velocities], sigmas, (), 0.0) for rows in (slice(2), slice(2, 6)))
    np.testing.assert_allclose(two.and_(four).gram, Statistics.of(start, velocities, sigmas, (), 0.0).gram, rtol=1e-6)
    with pytest.raises(CacheError, match="different schedules"):
        two.and_(statistics(flow(13)))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 7, 10), (1, 2, 3, 5, 6)])
def test_bands_add_up_and_have_nothing_in_common(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    parts = split(x, (2, 4))
    torch.testing.assert_close(parts.sum(0), x)
    flat = parts.flatten(1)
    products = flat @ flat.T
    assert float((products - products.diag().diag()).abs().max()) < 1e-3 * float(products.diag().max())
    other = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    wanted = split(x, (2, 4))[0] + split(other, (2, 4))[1:].sum(0)
    torch.testing.assert_close(join([x.clone(), other - x, torch.zeros_like(x)], (2, 4)), wanted)


def test_statistics_that_are_no_numbers_are_refused():
    with pytest.raises(CacheError, match="finite"):
        Statistics((1.0, 0.5), np.full((1, 3, 3), np.nan))
    with pytest.raises(CacheError, match="shape"):
        Statistics((1.0, 0.5), np.zeros((1, 2, 2)))


def test_a_trajectory_leaves_out_a_samplers_inner_steps():
    into, x = Trajectory(), torch.ones(1, 4, 8, 8)
    for sigma in (1.0, 0.7, 0.8, 0.7, 0.4):
        into.add(sigma, sigma * x, x)
    assert into.sigmas == [1.0, 0.7, 0.4]
    with pytest.raises(CacheError, match="two steps or more"):
        Trajectory().statistics((), 0.0)
