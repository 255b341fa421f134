"""TRACE's rehearsals against plain roll-outs and plain least squares, and channels that mix."""

import dataclasses
import itertools
import math

import host_models
import numpy as np
import pytest
import torch
from pack.bench import teachers
from pack.cache_core import CacheError, Recipe
from pack.cache_core import published as p
from pack.cache_core.history import History, Placement
from pack.cache_core.policies import Mask
from pack.cache_core.predictors import Fitted, fitted
from pack.cache_core.trace import Given, Shelf, Statistics, Trajectory, even, fit, rehearse
from pack.cache_core.trace.bands import LEVELS, TIMED, split
from pack.cache_core.trace.mixing import Problem, answer, differences, mix, table
from pack.cache_core.trace.rehearse import best, tried
from pack.demo.agreement import DEFAULTS
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.visit import visit
from policy_runs import flow
from trace_runs import World

MASK = [0, 4, 8, 12, 16, 19]


@pytest.fixture
def world():
    return World(flow(20))


def plain(world, mask, depth=5, ridge=1e-4):
    """Weights of a roll-out of all trajectories together, each step's by least squares on stacked numbers, and where each ended.

    The last trajectory is held out of the fit, and weights that lead it further away than order 1 are left.
    """
    x, teacher, known, rows = world.begin, world.begin, [], {}
    for n, (sigma, after) in enumerate(itertools.pairwise(world.sigmas)):
        stride = after - sigma
        if n in mask:
            known = [*known, (sigma, world.velocity(n, x))][-depth:]
        teacher = teacher + stride * world.path(sigma)
        v = known[-1][1]
        if len(known) > 1:
            (old, _), (new, _) = known[-2:]
            reach = (sigma - new) / (new - old)
            prior = np.array([0.0] * (len(known) - 2) + [-reach, 1 + reach, 0.0])
            parts = [part for _, part in known] + [x]
            goal = (teacher - x) / stride
            left = (goal - sum(float(weight) * part for weight, part in zip(prior, parts, strict=True))).square().flatten(1).sum(1)
            counts = (left / left.mean()).clamp_min(1e-3)[:, None] ** -0.5  # a trajectory counts the less, the more order 1 leaves of it
            table = np.stack([(counts * part.flatten(1)).double().numpy() for part in parts], 2)  # [trajectories, numbers, P]
            goal = (counts * goal.flatten(1)).double().numpy()
            seen, wanted = table[:-1].reshape(-1, len(parts)), goal[:-1].flatten()
            pull = ridge * (seen**2).sum() / len(parts)
            stacked = np.concatenate([seen, np.sqrt(pull) * np.eye(len(parts))])
            rows[n] = np.linalg.lstsq(stacked, np.concatenate([wanted, np.sqrt(pull) * prior]), rcond=None)[0]
            rows[n] = min((prior, rows[n]), key=lambda weights: ((table[-1] @ weights - goal[-1]) ** 2).sum())
            v = sum(float(weight) * part for weight, part in zip(rows[n], parts, strict=True))
        x = x + stride * v
    return rows, ((x - teacher).flatten(1).norm(dim=1) / teacher.flatten(1).norm(dim=1)).tolist()


def test_a_rehearsal_is_a_roll_out_with_each_step_fitted_on_the_way(world):
    made, (rows, errors) = rehearse(world, MASK, (), mixes=False), plain(world, MASK)
    assert made.weights.keys() == rows.keys()
    assert all(made.weights[step][0] == pytest.approx(rows[step], rel=1e-3, abs=1e-4) for step in rows)
    assert made.error == pytest.approx(math.prod(errors) ** (1 / 6), rel=1e-3)
    assert made.error == pytest.approx(world.error(made), rel=1e-3)
    assert made.held_out == pytest.approx(errors[-1], rel=1e-3)
    assert made.mixing == {}


def test_it_visits_every_trajectory_at_the_computed_steps_and_no_more(world):
    rehearse(world, MASK, ())
    assert world.visited == [(number, world.sigmas[step]) for step in MASK for number in range(6)]


def test_it_comes_nearer_than_a_guess_of_what_the_model_answers(world):
    assert world.error(rehearse(world, MASK, (), mixes=False)) < world.error(fit(world.statistics(), MASK))


def test_its_exams_are_the_errors_of_a_line_through_the_last_two_computed_velocities(world):
    made, seen = rehearse(world, MASK, (), mixes=False), world.sample(rehearse(world, MASK, (), mixes=False))[1]
    for n in range(2, len(MASK)):
        a, b, c = (world.sigmas[step] for step in MASK[n - 2 : n + 1])
        line = seen[n - 1] + (c - b) / (b - a) * (seen[n - 1] - seen[n - 2])
        assert made.exams[MASK[n]] == pytest.approx(float((line - seen[n]).norm() / seen[n].norm()), rel=1e-3)
    assert set(made.exams) == set(MASK[2:])


def test_of_several_masks_the_one_that_ends_nearest_stays(world):
    masks = [MASK, even(20, len(MASK)), [*range(len(MASK))]]
    errors = [rehearse(world, mask, ()).error for mask in masks]
    guesses = [fit(world.statistics(), mask) for mask in masks]
    assert best(world, guesses).computed == frozenset(masks[errors.index(min(errors))])


def test_a_guess_is_tried_as_it_is_and_stays_where_it_ends_nearer_than_the_rehearsal(world, monkeypatch):
    guess = fit(world.statistics(), MASK)
    real = tried(world, guess)
    assert (real.weights, real.anchors, real.computed) == (guess.weights, guess.anchors, guess.computed)
    assert real.error == pytest.approx(world.error(guess), rel=1e-3)
    assert best(world, [guess]).weights == rehearse(world, MASK, ()).weights
    spoilt = dataclasses.replace(rehearse(world, MASK, ()), error=2 * real.error)
    monkeypatch.setitem(best.__globals__, "rehearse", lambda *_, **__: spoilt)
    assert best(world, [guess]).weights == guess.weights
    mixed = rehearse(world, MASK, ())
    assert tried(world, mixed).error == pytest.approx(mixed.error, rel=1e-3)  # with its matrices


def test_channels_mix_where_the_model_mixes_them(world):
    mixed, alike = rehearse(world, MASK, ()), rehearse(world, MASK, (), mixes=False)
    assert mixed.mixing
    assert world.error(mixed) < 0.8 * world.error(alike)
    assert mixed.error == pytest.approx(world.error(mixed), rel=1e-3)


def random_problem(seed, rows=64, noise=0.0, levels=()):
    """Parts [3, B, 4, 8, 8] and a goal: the newest anchor's channels in another order, and noise."""
    random = torch.Generator().manual_seed(seed)
    parts = torch.randn(3, rows, 4, 8, 8, generator=random)
    goal = parts[1].roll(1, 1) + noise * torch.randn(rows, 4, 8, 8, generator=random)
    return parts, goal, Problem.of(parts, goal, levels)


def test_mixing_finds_what_one_channel_tells_of_another():
    parts, goal, one = random_problem(1)
    found = mix([one, random_problem(2)[2]], weights := np.zeros((1, 3)))
    made = answer(list(parts), torch.from_numpy(table(weights, found)).float(), ())
    assert float((made - goal).norm() / goal.norm()) < 0.01


def test_mixing_that_helps_no_other_trajectory_is_left_out():
    parts, _, _ = random_problem(1, rows=2)
    halves = [Problem.of(parts, torch.randn_like(parts[0]), ()) for _ in range(2)]
    assert mix(halves, np.zeros((1, 3))) is None


def test_mixing_has_to_help_both_halves_where_it_was_fitted_on_the_other():
    parts, goal, strong = random_problem(1)
    weak = Problem.of(parts, 0.2 * goal, ())  # what it needs helps the strong half too, and what that needs harms it
    assert mix([strong, weak], np.zeros((1, 3))) is None
    assert mix([weak, strong], np.zeros((1, 3))) is None
    assert mix([strong, strong], np.zeros((1, 3))) is not None


def test_a_problem_is_the_products_of_its_bands():
    parts, goal, made = random_problem(3, rows=2, levels=LEVELS)
    fine = split(parts, LEVELS)[0].double()  # [P, B, C, H, W]
    told = torch.einsum("pbrhw,qbshw->prqs", fine, fine).reshape(12, 12)
    assert np.allclose(made.square[0], told, rtol=1e-6)
    right = torch.einsum("pbrhw,bshw->prs", fine, split(goal, LEVELS)[0].double()).reshape(12, 4)
    assert np.allclose(made.right[0], right, rtol=1e-5, atol=1e-4)
    assert made.own.sum() == pytest.approx(float(goal.double().square().sum()), rel=1e-6)


def test_what_weights_leave_is_measured_without_the_numbers_themselves():
    parts, goal, made = random_problem(4, rows=2, noise=1.0)
    weights = np.array([[0.3, -0.2, 0.5]])
    rest = goal - sum(float(weight) * part for weight, part in zip(weights[0], parts, strict=True))
    assert made.left(weights).own[0] == pytest.approx(float(rest.double().square().sum()), rel=1e-5)
    changed = torch.stack([parts[1], parts[1] - parts[0], parts[2]])
    assert np.allclose(made.left(weights).right, Problem.of(changed, rest, ()).right, atol=1e-2)


def test_differences_are_backward_and_of_rising_order():
    assert differences(4).tolist() == [[0, 0, 1, 0], [0, -1, 1, 0], [1, -2, 1, 0], [0, 0, 0, 1]]


def test_a_latent_of_too_many_channels_goes_by_weights_alone():
    parts, goal = torch.randn(3, 4, 64, 8, 8), torch.randn(4, 64, 8, 8)
    assert Problem.of(parts, goal, ()).rows == 1


def test_a_forecast_mixes_by_the_plan_and_not_for_another_number_of_channels(world):
    made = rehearse(world, MASK, ())
    step = next(step for step in sorted(made.mixing) if len(made.anchors[step]) == 3)
    for channels in (4, 6):  # of another number than the plan's
        history, x = History(5, Placement()), torch.randn(1, channels, 8, 8)
        for n in range(4):
            history.push(1.0 - n / 10, torch.randn(1, channels, 8, 8))
        found = fitted.combine(history, made, step, x)
        told = plain_answer([*history.features[1:], x], made.weights[step], made.mixing[step] if channels == 4 else None, ())
        torch.testing.assert_close(found, told)


def plain_answer(parts, weights, mixing, levels):
    """Each band of what its own weights and mixing make, in loops."""
    total = 0.0
    for band, row in enumerate(weights):
        made = sum(weight * part for weight, part in zip(row, parts, strict=True))
        if mixing is not None:
            tables = torch.from_numpy(mixing[band]).float()
            made = made + sum(torch.einsum("ck,bk...->bc...", tables[:, p], part) for p, part in enumerate(parts))
        total = total + split(made, levels)[band]
    return total


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize(
    ("shape", "levels"), [((2, 3, 8, 8), LEVELS), ((2, 3, 7, 10), LEVELS), ((1, 1, 8, 4), ()), ((2, 2, 3, 5, 8), TIMED)]
)
def test_an_answer_is_each_bands_own(mixes, shape, levels):
    random = torch.Generator().manual_seed(2)
    parts = [torch.randn(shape, generator=random) for _ in range(4)]
    weights = torch.randn(len(levels) + 1, 4, generator=random).double().numpy()
    mixing = torch.randn(len(levels) + 1, shape[1], 4, shape[1], generator=random).double().numpy() if mixes else None
    kept = [part.clone() for part in parts]
    found = answer(parts, torch.from_numpy(table(weights, mixing)).float(), levels)
    torch.testing.assert_close(found, plain_answer(parts, weights.tolist(), mixing, levels), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(part, before) for part, before in zip(parts, kept, strict=True))


@pytest.mark.host
@pytest.mark.parametrize(("family", "cfg"), [("flux", 1.0), ("wan", 3.0)])
def test_a_visit_is_the_evaluation_that_a_sampling_makes(family, cfg):
    model, into = host_models.make(family), Trajectory()
    host_models.sample(attach(model, p.collect(into)), family, steps=6, cfg=cfg)
    told = host_models.prompt(5, 11), host_models.prompt(5, 12)
    with torch.inference_mode():
        for n in (0, 3):
            x = into.start + sum(
                (after - sigma) * v for sigma, after, v in zip(into.sigmas, into.sigmas[1 : n + 1], into.velocities, strict=False)
            )
            seen = visit(model, x, into.sigmas[n], cfg, *told, torch.zeros_like(x))
            assert float((seen - into.velocities[n]).norm() / seen.norm()) < 1e-4


def test_a_trajectory_that_is_gone_says_so(tmp_path):
    with pytest.raises(CacheError, match="gone or damaged"):
        Shelf(tmp_path, "key").velocity(3, 0)


def test_what_lies_on_a_shelf_is_read_a_step_at_a_time(world, tmp_path):
    into = Trajectory(world.begin, list(world.sigmas[:-1]), world.velocities())
    shelf = Shelf(tmp_path, "key")
    shelf.put(0, into, (), 0.0)
    assert torch.equal(shelf.start(0), world.begin.half())
    assert torch.equal(shelf.velocity(0, 7), world.velocities()[7].half())


@pytest.mark.host
def test_what_mixing_takes_is_counted():
    model, schedule = host_models.make("flux"), flow(8)
    start, *velocities = torch.randn(9, 1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    made = fit(Statistics.of(start, velocities, schedule.sigmas[:-1], LEVELS, 0.0), [0, 1, 4, 7])
    mixing = {step: np.zeros((3, 16, len(made.weights[step][0]), 16)) for step in (3, 4)}  # one is forecast, one corrected
    ledgers = []
    for plan in (made, dataclasses.replace(made, mixing=mixing)):
        recipe = Recipe(Mask(made.computed, 8), Fitted(Given(plan)))
        host_models.sample(attach(model, recipe, ledgers.append), "flux", steps=8)
    macs = [[entry.macs for entry in ledger.entries] for ledger in ledgers]
    places = math.prod(host_models.LATENT["flux"][1:])
    takes = [mixing[step].size * places if step in mixing else 0 for step in range(8)]
    assert [after - before for before, after in zip(*macs, strict=True)] == takes


def test_a_demo_models_own_calibration_serves_its_own_setting_alone():
    assert teachers.shipped("flux", DEFAULTS["flux"]).name == "demo-flux"
    assert teachers.shipped("flux", dataclasses.replace(DEFAULTS["flux"], steps=28)) is None
