"""TRACE's closed loop: plans from files, the guard, plans for an error, and weights for steps that nobody planned."""

import dataclasses

import host_models
import numpy as np
import pytest
import torch
from pack.cache_core import CacheError, RecipeError, Schedule
from pack.cache_core import published as p
from pack.cache_core.history import History, Placement
from pack.cache_core.masks import budget, rescale
from pack.cache_core.policies import ALARM, Traced
from pack.cache_core.predictors import Fitted, Lagrange
from pack.cache_core.tables.masks import WAN_LEMICA
from pack.cache_core.trace import (
    ForQuality,
    ForSpeed,
    Given,
    Shelf,
    Statistics,
    Trajectory,
    calibrated,
    fit,
    load,
    plan,
    rehearsed,
    save,
    universal,
)
from pack.cache_core.trace.bands import LEVELS
from pack.cache_core.trace.calibration import refitted
from pack.cache_core.trace.collect import visits
from pack.cache_core.trace.fit import DEPTH, Manner
from pack.cache_core.types import Observation, Step
from pack.nodes import trace as trace_nodes
from pack.nodes.adapters.host import attach
from policy_runs import flow
from trace_runs import World

MASK = [0, 4, 8, 12, 16, 19]


@pytest.fixture
def world():
    return World(flow(20))


def test_rehearsed_plans_come_back_from_the_file_and_serve_their_schedule_alone(world, tmp_path):
    schedule = flow(20)
    made = rehearsed(calibrated("mine", world.statistics(), {}, tries=5), (2.0, 3.0), world)
    most = world.batches * visits(20, (2.0, 3.0))
    assert most / 2 < len(world.visited) <= most
    save(made, tmp_path / "c.safetensors")
    back = load(tmp_path / "c.safetensors")
    count = budget(20, 3.0)
    assert back.plans == made.plans
    assert all(known.plan.alarm > 1.0 and known.plan.held_out > 0.0 for known in back.plans)
    assert all(known.plan.mixing for known in made.plans)
    for ours, theirs in zip(made.plans, back.plans, strict=True):
        assert ours.plan.mixing.keys() == theirs.plan.mixing.keys()
        assert all(np.allclose(table, theirs.plan.mixing[step], rtol=1e-6) for step, table in ours.plan.mixing.items())
    assert plan(back, schedule, count).weights == made.plans[0].plan.weights
    assert plan(back, flow(20, start=0.9), count).weights != made.plans[0].plan.weights
    assert plan(back, schedule, count + 1).weights == fit(back.statistics, back.computed(schedule, count + 1)).weights


def test_the_own_mask_the_universal_one_and_a_far_searchs_go_to_the_rehearsals(world, monkeypatch):
    known, schedule, offered, heard = calibrated("mine", world.statistics(), {}, tries=5), flow(20), [], []

    def searched(costs, total, count, starts, *_, far):
        offered.extend(starts)
        return [*range(count - 1), total - 1]

    def chosen(stage, guesses, mixes):
        heard.extend(guess.computed for guess in guesses)
        return guesses[0]

    monkeypatch.setitem(rehearsed.__globals__, "search", searched)
    monkeypatch.setitem(rehearsed.__globals__, "best", chosen)
    rehearsed(known, (2.0,), world)
    count = budget(20, 2.0)
    mine, everyones = known.computed(schedule, count), universal().computed(schedule, count)
    assert set(heard) == {mine, everyones, frozenset([*range(count - 1), 19])}
    assert {mine, everyones} <= set(map(frozenset, offered))
    assert rescale(WAN_LEMICA[0], schedule, count) in set(map(frozenset, offered))


def test_a_plan_for_an_error_computes_the_fewest_steps_that_keep_it(world):
    known, schedule = calibrated("mine", world.statistics(), {}, tries=20), flow(20)
    limit = 1.01 * plan(known, schedule, 9).error
    found = ForQuality(known, limit).plan(schedule)
    assert found.error <= limit
    assert 5 < len(found.computed) <= 9
    assert all(plan(known, schedule, count).error > limit for count in range(5, len(found.computed)))
    assert ForQuality(known, 0.0).plan(schedule) is None
    with pytest.raises(RecipeError, match="expected error is 0"):
        ForQuality(known, -1.0)


def seen(schedule: Schedule, index: int) -> Observation:
    return Observation(Step(schedule, schedule.sigmas[index], index), None, 0, 0)


def kept(world: World, steps: list[int]) -> History:
    history = History(DEPTH, Placement())
    for step in steps:
        history.push(world.sigmas[step], world.path(world.sigmas[step]))
    return history


def test_where_other_steps_were_computed_weights_are_fitted_for_those(world):
    known, schedule = calibrated("mine", world.statistics(), {}, tries=5), flow(20)
    planner = ForSpeed(known, 3.0)
    planned = planner.plan(schedule)
    extra = next(n for n in range(4, 18) if n not in planned.computed and n + 1 not in planned.computed)
    steps = [*sorted(n for n in planned.computed if n < extra)[1 - DEPTH :], extra]
    amended = refitted(known, schedule, planned.computed | {extra})
    assert amended.anchors[extra + 1] == tuple(steps)
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    (row,) = amended.weights[extra + 1]
    wanted = sum(weight * part for weight, part in zip(row, [*(world.path(world.sigmas[n]) for n in steps), x], strict=True))
    torch.testing.assert_close(Fitted(planner).predict(kept(world, steps), seen(schedule, extra + 1), x), wanted, rtol=1e-4, atol=1e-4)


def test_exams_are_of_order_one_where_a_plan_computes_and_of_the_plan_where_it_would_forecast(world):
    known, schedule = calibrated("mine", world.statistics(), {}, tries=5), flow(20)
    fitted = Fitted(ForSpeed(known, 3.0))
    planned = fitted.planner.plan(schedule)
    generator = torch.Generator().manual_seed(9)
    x, y = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    computed = sorted(planned.computed)
    for step in (computed[5], next(n for n in range(computed[4], 20) if n not in planned.computed)):
        history = kept(world, [n for n in computed if n < step][-DEPTH:])
        by_line, by_plan = (y - each.predict(history, seen(schedule, step), x) for each in (Lagrange(1), fitted))
        assert torch.equal(by_line, by_plan) is (step in planned.computed)
        torch.testing.assert_close(fitted.miss(history, seen(schedule, step), x, y), by_plan, rtol=1e-4, atol=1e-5)


def test_planners_remember_what_they_planned(world, monkeypatch):
    known, schedule = calibrated("mine", world.statistics(), {}, tries=5), flow(20)
    planners = [ForSpeed(known, 3.0), ForSpeed(known, 1.0), ForQuality(known, 0.0), ForQuality(known, plan(known, schedule, 9).error)]
    found = [planner.plan(schedule) for planner in planners]
    assert [plan is None for plan in found] == [False, True, True, False]
    for name in ("plan", "budget"):
        monkeypatch.setitem(ForSpeed.plan.__globals__, name, None)
    assert all(planner.plan(flow(20)) is before for planner, before in zip(planners, found, strict=True))


def test_a_plan_of_fewer_anchors_than_are_kept_is_followed_as_it_is(world):
    made, steps = fit(world.statistics(), MASK, Manner(3)), MASK[:5]
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    parts = [*(world.path(world.sigmas[n]) for n in steps[-3:]), x]
    wanted = sum(weight * part for weight, part in zip(made.weights[17][0], parts, strict=True))
    found = Fitted(Given(made)).predict(kept(world, steps), seen(flow(20), 17), x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("factor", "reuse"), [(0.9, True), (1.1, False)])
def test_an_exam_beyond_the_alarm_has_the_next_step_computed_once(world, factor, reuse):
    known, schedule = calibrated("mine", world.statistics(), {}, tries=5), flow(20)
    policy = Traced(ForSpeed(known, 3.0))
    planned = policy.planner.plan(schedule)
    step = next(n for n in sorted(planned.exams) if n + 1 < 20 and n + 1 not in planned.computed)
    error = torch.tensor(factor * ALARM * planned.exams[step])
    state = policy.settle(policy.init(), Observation(Step(schedule, schedule.sigmas[step], step), None, 0, 3, error=error), torch.zeros(1))
    verdict, state = policy.propose(state, seen(schedule, step + 1))
    assert verdict.reuse is reuse
    assert ("as far off as expected" in verdict.reason) is not reuse
    assert verdict.score == pytest.approx(factor, rel=1e-3)
    assert policy.propose(state, seen(schedule, step + 1))[0].reuse, "heard once"
    assert Traced(policy.planner, 0.0).propose(policy.settle(None, seen(schedule, step), None), seen(schedule, step + 1))[0].reuse


def test_a_plan_that_knows_how_far_exams_spread_has_an_alarm_of_its_own(world):
    made = dataclasses.replace(fit(world.statistics(), MASK), alarm=5.0)
    step = next(n for n in sorted(made.exams) if n + 1 not in made.computed)
    schedule, policy = flow(20), Traced(Given(made))
    for factor, reuse in ((4.9, True), (5.1, False)):
        seen_then = Observation(Step(schedule, schedule.sigmas[step], step), None, 0, 3, error=torch.tensor(factor * made.exams[step]))
        verdict, _ = policy.propose(policy.settle(None, seen_then, torch.zeros(1)), seen(schedule, step + 1))
        assert verdict.reuse is reuse
        assert verdict.score == pytest.approx(factor / 5.0, rel=1e-3)
        quiet = Traced(Given(made), 0.0)
        assert quiet.propose(quiet.settle(None, seen_then, torch.zeros(1)), seen(schedule, step + 1))[0].reuse
    assert verdict.reason == f"step {step} was 5.1 times as far off as expected"


def test_trajectories_on_the_shelf_are_those_of_their_key(world, tmp_path):
    shelf, into = Shelf(tmp_path / "unfinished", "a key"), Trajectory()
    for n, sigma in enumerate(world.sigmas[:-1]):
        into.add(sigma, world.teacher[n], world.path(sigma))
    put = shelf.put(2, into, LEVELS, 0.0)
    found = shelf.get(2, LEVELS)
    assert torch.equal(found.velocities, put.velocities)
    assert (found.statistics.gram == put.statistics.gram).all()
    assert found.statistics.sigmas == pytest.approx(world.sigmas[:-1])
    assert shelf.get(1, LEVELS) is None
    assert Shelf(shelf.folder, "another key").get(2, LEVELS) is None
    (shelf.folder / "2.safetensors").write_bytes(b"cut off")
    assert shelf.get(2, LEVELS) is None
    shelf.clear()
    assert not shelf.folder.exists()


@pytest.mark.host
def test_a_model_unlike_the_calibrations_is_computed_more_often_and_the_report_says_why():
    model, ledgers, schedule = host_models.make("wan"), [], flow(20)
    start, direction, little = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth = [direction + 0.05 * sigma**2 * little for sigma in schedule.sigmas[:-1]]
    known = calibrated("smooth", Statistics.of(start, smooth, schedule.sigmas[:-1], (), 0.0), {}, tries=5)
    for guarded in (True, False):
        host_models.sample(attach(model, p.trace(3.0, known, guarded=guarded), ledgers.append), "wan", steps=20, cfg=3.0)
    guarded, free = ledgers
    assert free.computed == budget(20, 3.0) < guarded.computed
    assert any("as far off as expected" in entry.reason for entry in guarded.entries)


def test_what_ships_expects_an_exam_at_every_computed_step_but_the_first_two():
    found = plan(universal(), flow(50), 24)
    assert set(found.exams) == set(sorted(found.computed)[2:])


@pytest.mark.parametrize(("text", "speeds"), [("2, 3", [2.0, 3.0]), ("", []), ("1.5,", [1.5])])
def test_speeds_are_read_from_a_list(text, speeds):
    assert trace_nodes.speeds_of(text) == speeds


@pytest.mark.parametrize("text", ["fast", "1", "2; 3", "9"])
def test_speeds_that_are_none_are_refused(text):
    with pytest.raises(CacheError, match="peeds"):
        trace_nodes.speeds_of(text)
