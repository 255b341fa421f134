"""How a sampler steps, found by letting it sample the axes: against plain formulas, and against the host's own samplings."""

import itertools
import math

import comfy.samplers
import host_models
import numpy as np
import pytest
import torch
from pack.cache_core import Schedule
from pack.cache_core import published as p
from pack.cache_core.solver import Solver, Walk, euler
from pack.cache_core.trace import Rehearsed, Trajectory, calibrated, fit, rehearse, rehearsed
from pack.cache_core.trace.calibration import plan
from pack.cache_core.trace.search import cost
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.solvers import named, shown, solver_of
from policy_runs import flow
from trace_runs import World

MASK = [0, 4, 8, 12, 16, 19]
KNOWN = ["lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep", "gradient_estimation", "uni_pc", "uni_pc_bh2"]
OTHERS = ["heun", "dpm_2", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpm_adaptive", "dpm_fast", "lcm", "ddpm", "euler_cfg_pp"]


@pytest.fixture(scope="module")
def models():
    return {family: host_models.make(family) for family in ("flux", "wan")}


def test_eulers_rule_is_eulers_step():
    sigmas, x, v = (1.0, 0.7, 0.2, 0.0), torch.randn(2, 4), torch.randn(3, 2, 4)
    walk, plain = Walk(x, sigmas, euler(sigmas)), x
    for n in range(3):
        goal = torch.randn(2, 4)
        torch.testing.assert_close(walk.back(goal), (goal - plain) / (sigmas[n + 1] - sigmas[n]))
        walk.go(v[n])
        plain = plain + (sigmas[n + 1] - sigmas[n]) * v[n]
        torch.testing.assert_close(walk.x, plain)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_walk_goes_by_its_rows_and_back_leads_to_the_goal(pictures):
    sigmas, rows = (0.9, 0.6, 0.4, 0.1), ((0.7, 0.3), (0.6, 0.5, -0.1), (0.3, 0.9, -0.4, 0.2))
    x, *velocities = np.random.default_rng(0).normal(size=(4, 5))
    walk, xs, seen = Walk(x, sigmas, Solver("any", rows, pictures)), [x], []
    for n, v in enumerate(velocities):
        other = Walk(xs[0], sigmas, Solver("any", rows, pictures))
        for before in velocities[:n]:
            other.go(before)
        goal = np.arange(5.0)
        other.go(other.back(goal))
        assert other.x == pytest.approx(goal)
        seen.insert(0, xs[-1] - sigmas[n] * v if pictures else v)
        keep, *shares = rows[n]
        xs.append(keep * xs[-1] + sum(share * one for share, one in zip(shares, seen, strict=False)))
        walk.go(v)
        assert walk.x == pytest.approx(xs[-1])


def test_dpm_solver_2m_is_found_as_it_is_published():
    sigmas = flow(12).sigmas
    found = named("dpmpp_2m", sigmas)
    assert found.pictures
    for n, row in enumerate(found.rows):
        share = 1 - sigmas[n + 1] / sigmas[n]
        wanted = [sigmas[n + 1] / sigmas[n], share]
        if 0 < n < 11:
            r = math.log(sigmas[n - 1] / sigmas[n]) / math.log(sigmas[n] / sigmas[n + 1])
            wanted = [wanted[0], share * (1 + 1 / (2 * r)), -share / (2 * r)]
        assert row == pytest.approx(wanted, abs=1e-5)


def test_an_adams_bashforth_step_is_found_on_velocities():
    sigmas = tuple(float(level) for level in torch.linspace(1.0, 0.0, 11))
    found = named("ipndm", sigmas)
    assert not found.pictures
    assert found.rows[5] == pytest.approx([1.0, *(-0.1 * share / 24 for share in (55, -59, 37, -9))], abs=1e-6)


@pytest.mark.host
@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("name", KNOWN)
def test_the_rule_goes_where_the_hosts_sampler_goes(models, family, name):
    into = Trajectory()
    model = attach(models[family], p.collect(into))
    end = host_models.sample(model, family, steps=9, cfg=1.0 if family == "flux" else 3.0, sampler=name)
    levels = [*into.sigmas, 0.0]
    rule = named(name, levels, models[family].model)
    assert rule is not None
    assert rule.name == name
    walk = Walk(into.start, levels, rule)
    for velocity in into.velocities:
        walk.go(velocity)
    end = models[family].model.process_latent_in(end)
    assert float((walk.x - end).norm() / end.norm()) < 2e-3


@pytest.mark.parametrize("name", OTHERS)
def test_a_sampler_that_draws_noise_or_evaluates_more_often_has_no_rule(name):
    before = torch.random.get_rng_state()
    assert named(name, flow(9).sigmas) is None
    assert torch.equal(torch.random.get_rng_state(), before)


def sampler(function, module="comfy.mine"):
    function.__module__ = module
    return comfy.samplers.KSAMPLER(function)


def eulers(model, x, sigmas, change=lambda x: x, **_):
    for sigma, after in itertools.pairwise(sigmas):
        x = change(x + (x - model(x, sigma * x.new_ones(1))) / sigma * (after - sigma))
    return x


def test_only_the_hosts_own_samplers_are_tried():
    called = []

    def mine(*args, **given):
        called.append(1)
        return eulers(*args, **given)

    sigmas = flow(9).sigmas
    assert solver_of(sampler(mine, "somebody.elses"), sigmas) is None
    assert solver_of(object(), sigmas) is None
    assert not called
    assert shown(found := solver_of(sampler(mine), sigmas), sigmas) is None
    assert found is not None


def test_one_that_is_not_linear_has_no_rule():
    assert solver_of(sampler(lambda *args, **given: eulers(*args, change=lambda x: x.clamp(max=0.9), **given)), flow(9).sigmas) is None


def test_noise_levels_that_come_to_nothing_before_the_end_have_no_rule():
    def halving(model, x, sigmas, **_):
        for sigma in sigmas[:-1]:
            x = 0.5 * x + 0.5 * model(x, sigma * x.new_ones(1))
        return x

    assert solver_of(sampler(halving), (1.0, 0.5, 0.0, 0.0)) is None
    assert named("euler", (1.0, 0.5, 0.0, 0.0)) is None


def test_one_that_draws_its_noise_from_the_common_source_leaves_it_as_it_was():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    noisy = sampler(lambda *args, **given: eulers(*args, change=lambda x: x + torch.randn_like(x), **given))
    assert solver_of(noisy, flow(9).sigmas) is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_options_count_and_euler_is_shown_as_nothing():
    sigmas = flow(9).sigmas
    assert solver_of(comfy.samplers.ksampler("euler", {"s_churn": 1.0}), sigmas) is None
    assert np.allclose(named("ddim", sigmas).rows, euler(sigmas).rows)
    assert shown(named("euler", sigmas), sigmas) is None
    assert shown(None, sigmas) is None
    assert shown(found := named("deis", sigmas), sigmas) is found


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc"])
def test_a_schedule_knows_the_rule_of_its_sampling(models, name):
    seen = []

    def chosen(situation):
        seen.append(situation.schedule)
        from pack.nodes.adapters.choice import Choice

        return Choice(p.trace(1.0))

    host_models.sample(attach(models["flux"], chosen), "flux", steps=8, sampler=name)
    (schedule,) = seen
    assert schedule.solver == shown(named(name, schedule.sigmas), schedule.sigmas)
    assert (schedule.solver is None) is (name == "euler")


@pytest.fixture
def world():
    return World(flow(20), named("dpmpp_2m", flow(20).sigmas))


def test_the_way_back_is_in_the_solvers_own_step(world, monkeypatch):
    made, eulers = rehearse(world, MASK, (), mixes=False), rehearse(World(flow(20)), MASK, (), mixes=False)
    assert made.error == pytest.approx(world.error(made), rel=1e-3)
    assert made.error < world.error(eulers)
    monkeypatch.setattr(world, "answer", torch.zeros_like)  # nothing to guess
    ours, eulers = fit(world.statistics(), MASK, solver=world.solver), fit(world.statistics(), MASK)
    assert world.error(ours) < 0.9 * world.error(eulers)


def test_a_followed_sampling_ends_where_the_world_ends_when_nothing_is_guessed(world):
    every = fit(world.statistics(), range(20), solver=world.solver)
    assert every.error < 1e-6
    assert world.error(every) < 1e-5


def test_a_plan_goes_by_the_rule_of_its_schedule_and_a_rehearsed_one_serves_its_solver_alone(world):
    plain, schedule = flow(20), Schedule(flow(20).sigmas, world.solver)
    made = rehearsed(calibrated("mine", world.statistics(), {}, tries=5, solver=world.solver), (3.0,), world)
    (known,) = made.plans
    count = len(known.plan.computed)
    assert known.solver == "dpmpp_2m"
    assert plan(made, schedule, count) == known.plan
    unrehearsed = made.unrehearsed()
    for one in (plain, schedule):
        wanted = fit(made.statistics, made.computed(one, count), solver=one.solver).weights
        assert plan(unrehearsed, one, count).weights == wanted
    assert plan(made, plain, count).weights == plan(unrehearsed, plain, count).weights
    assert plan(unrehearsed, plain, count).weights != plan(unrehearsed, schedule, count).weights
    assert Rehearsed(known.sigmas, known.plan).fits(plain, count)


def test_masks_are_searched_for_the_solver(world):
    known, masks = world.statistics(), [[0, *inner, 19] for inner in itertools.combinations(range(2, 18, 3), 3)]
    ours, eulers = cost(known, solver=world.solver), cost(known)
    assert any(ours(mask) != pytest.approx(eulers(mask)) for mask in masks)
    assert ours(MASK) == fit(known, MASK, solver=world.solver).error
    found = calibrated("", known, {}, tries=60, solver=world.solver).masks
    assert found != calibrated("", known, {}, tries=60).masks
