"""TRACE: fits in the space of inner products against plain least squares on real tensors, and its way through the host."""

import json
import math
from types import SimpleNamespace

import host_models
import numpy as np
import pytest
import torch
from pack.cache_core import CacheError, RecipeError, Schedule, Site
from pack.cache_core import published as p
from pack.cache_core.masks import budget
from pack.cache_core.trace import Calibration, Statistics, Terms, Trajectory, calibrated, cost, even, fit, load, plan, save, search
from pack.cache_core.trace import fit as fits
from pack.cache_core.trace.bands import LEVELS, join, split
from pack.nodes import calibrations
from pack.nodes import trace as trace_nodes
from pack.nodes.adapters import calibrate
from pack.nodes.adapters.host import attach
from policy_runs import flow
from safetensors.torch import save_file

fit_module = __import__("sys").modules[fits.__module__]


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


def plain_fit(start, velocities, sigmas, mask, *, depth=3, ridge=1e-4, returns=True, state=True, corrects=True):
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
    schedule, mask = flow(20), [0, 3, 6, 10, 15, 19]
    start, velocities = trajectories(schedule)
    found = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0), mask)
    table, x, teacher = plain_fit(start, velocities, schedule.sigmas, mask)
    assert set(found.weights) == set(table) == set(range(3, 20))
    for step, row in table.items():
        assert found.weights[step][0] == pytest.approx(row.tolist(), rel=1e-3, abs=1e-4)
    assert found.error == pytest.approx(float((x - teacher).norm() / teacher.norm()), rel=0.02)


def test_anchors_name_the_computed_steps_that_weights_are_for(deaf):
    found = fit(statistics(flow(12)), [0, 2, 5, 9, 11])
    assert found.anchors[2] == found.anchors[4] == (0, 2)
    assert found.anchors[10] == (2, 5, 9)
    assert 1 not in found.anchors


@pytest.mark.parametrize("left_out", ["returns", "state", "corrects"])
def test_an_ablation_is_the_plain_fit_without_that_part(deaf, left_out):
    schedule, mask = flow(20), [0, 3, 6, 10, 15, 19]
    start, velocities = trajectories(schedule)
    terms = {left_out: False}
    found = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0), mask, terms=Terms(**terms))
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
    torch.testing.assert_close(join([x, other, other], (2, 4)), split(x, (2, 4))[0] + split(other, (2, 4))[1:].sum(0))


def test_a_calibration_comes_back_from_its_file(tmp_path):
    made = calibrated("mine", statistics(flow(20), LEVELS), {"cfg": 3.0}, tries=5)
    save(made, tmp_path / "mine.safetensors")
    back = load(tmp_path / "mine.safetensors")
    np.testing.assert_array_equal(back.statistics.gram, made.statistics.gram)
    assert (back.name, back.masks, dict(back.about), back.statistics.levels) == ("mine", made.masks, {"cfg": 3.0}, LEVELS)
    assert back.statistics.sigmas == made.statistics.sigmas
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_missing_damaged_foreign_or_future_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(CacheError, match="no calibration at"):
        load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CacheError, match="damaged"):
        load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CacheError, match="no calibration of Encore"):
        load(path)
    save_file({"gram": torch.ones(1, 3, 3)}, path, {"encore": json.dumps({"format": 99})})
    with pytest.raises(CacheError, match="format 99"):
        load(path)


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


def test_trace_needs_velocities():
    with pytest.raises(RecipeError, match="corrects velocities"):
        p.trace(2.0, site=Site.STACK)


@pytest.fixture(scope="module", params=["flux", "wan"])
def real(request):
    """A tiny real model, how it is sampled, and a calibration of it."""
    model, settings = host_models.make(request.param), {"steps": 16, "cfg": 3.0 if request.param == "wan" else 1.0}
    into = Trajectory()
    host_models.sample(attach(model, p.collect(into)), request.param, **settings)
    return request.param, model, settings, calibrated("tiny", into.statistics(LEVELS, 0.0), {}, tries=10)


@pytest.mark.host
def test_collecting_changes_nothing(real):
    family, model, settings, _ = real
    collected = host_models.sample(attach(model, p.collect(Trajectory())), family, **settings)
    assert torch.equal(collected, host_models.sample(model, family, **settings))


@pytest.mark.host
def test_speed_1_changes_nothing(real):
    family, model, settings, calibration = real
    ours = host_models.sample(attach(model, p.trace(1.0, calibration)), family, **settings)
    assert torch.equal(ours, host_models.sample(model, family, **settings))


@pytest.mark.host
@pytest.mark.parametrize("site", [Site.GUIDED, Site.COND])
def test_the_planned_steps_are_computed_and_the_plan_beats_order_1(real, site):
    family, model, settings, calibration = real
    uncached, ledgers = host_models.sample(model, family, **settings), []
    with host_models.BlockCalls(model) as calls:
        ours = host_models.sample(attach(model, p.trace(2.0, calibration, site), ledgers.append), family, **settings)
    schedule = Schedule((*calibration.statistics.sigmas, 0.0))
    found = plan(calibration, schedule, budget(16, 2.0))
    assert {entry.step for entry in ledgers[0].entries if entry.computed} == found.computed
    assert calls.evaluations == {len(found.computed)}
    plain = host_models.sample(attach(model, p.masked(found.computed, 16)), family, **settings)
    assert (ours - uncached).norm() < (plain - uncached).norm()


@pytest.mark.host
def test_both_sites_give_the_same_since_weights_pass_through_guidance(real):
    family, model, settings, calibration = real
    guided, cond = (
        host_models.sample(attach(model, p.trace(2.0, calibration, site)), family, **settings) for site in (Site.GUIDED, Site.COND)
    )
    torch.testing.assert_close(guided, cond, rtol=1e-3, atol=1e-3)


@pytest.mark.host
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral"])
def test_other_samplers_finish_and_two_runs_are_equal(real, sampler):
    family, model, settings, calibration = real
    cached = attach(model, p.trace(2.0, calibration))
    first, second = (host_models.sample(cached, family, sampler=sampler, **settings) for _ in range(2))
    assert torch.equal(first, second)
    assert first.isfinite().all()


@pytest.mark.host
def test_the_universal_calibration_fits_any_schedule(real):
    family, model, settings, _ = real
    for steps in (12, 20, 33):
        ledgers = []
        host_models.sample(attach(model, p.trace(2.0, guarded=False), ledgers.append), family, steps=steps, cfg=settings["cfg"])
        assert ledgers[0].computed == budget(steps, 2.0)


def test_without_a_searched_mask_steps_are_even():
    known = Calibration("bare", statistics(flow(20)), ())
    assert known.computed(flow(20), 5) == frozenset(even(20, 5))
    assert known.computed(flow(20), 20) == frozenset(range(20))


@pytest.mark.host
def test_the_node_writes_a_calibration_that_the_other_node_samples_by(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "OWN", tmp_path)
    model, latent = host_models.make("flux"), {"samples": torch.zeros(1, *host_models.LATENT["flux"])}
    settings = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    told = {"positive": host_models.prompt(5, 11), "negative": host_models.prompt(5, 12)}
    trace_nodes.EncoreCalibrate.execute(model, latent_image=latent, trajectories=2, seed=3, name="mine", speeds="1.4", **told, **settings)
    assert {"universal", "mine"} <= set(calibrations.names())
    assert load(tmp_path / "mine.safetensors").statistics.trajectories == 2
    known = load(tmp_path / "mine.safetensors")
    assert calibrate.mismatch(model, known) == []
    assert "another network" in calibrate.mismatch(host_models.make("wan"), known)[0]
    monkeypatch.setattr(trace_nodes.EncoreTrace, "hidden", SimpleNamespace(unique_id=None), raising=False)
    (cached,) = trace_nodes.EncoreTrace.execute(model, 1.4, "mine").result
    assert host_models.sample(cached, "flux", steps=8).isfinite().all()
    with pytest.raises(CacheError, match="cannot be called"):
        calibrations.place_for("../mine")
