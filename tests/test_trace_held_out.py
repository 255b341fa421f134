"""Trajectories that a rehearsal holds out, and the alarm that its exams tell."""

import math

import numpy as np
import pytest
import torch
from pack.cache_core.solver import Walk, euler
from pack.cache_core.trace import Trajectory, rehearse
from pack.cache_core.trace.bands import LEVELS, split
from pack.cache_core.trace.mixing import Problem, kept
from pack.cache_core.trace.rehearse import Student, _fitted, alarm, spared
from policy_runs import flow
from test_trace_rehearsals import MASK, plain_answer, random_problem
from trace_runs import World


@pytest.fixture
def world():
    return World(flow(20))


def test_one_trajectory_of_eight_is_held_out_and_of_very_few_none():
    assert [sum(spared(count)) for count in (0, 1, 3, 4, 7, 8, 15, 16, 48)] == [0, 0, 0, 1, 1, 1, 1, 2, 6]
    assert [n for n, out in enumerate(spared(17)) if out] == [7, 15]
    assert [n for n, out in enumerate(spared(5)) if out] == [4]


def test_of_three_trajectories_none_is_held_out(world):
    world.begin, world.teacher = world.begin[:3], [latent[:3] for latent in world.teacher]
    made = rehearse(world, MASK, (), mixes=False)
    assert (made.held_out, made.alarm) == (None, 0.0)


@pytest.mark.parametrize("alike", [True, False])
def test_a_trajectory_that_is_held_out_is_not_fitted_and_decides_what_stays(alike):
    parts = torch.randn(3, 8, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    prior, line = np.array([-1.0, 2.0, 0.0]), 2 * parts[1] - parts[0]
    goal = torch.cat([parts[1, :7], (parts[1] if alike else line)[7:]])  # seven go by the newest velocity, the eighth too or by the line
    levels, rule = (1.0, 2.0), euler((1.0, 2.0))  # a step of 1
    student = Student(Walk(parts[2], levels, rule), Walk(parts[2] + goal, levels, rule), list(parts[:2]))
    weights, _ = _fitted([student], (), prior, mixes=False)
    assert weights[0].tolist() == pytest.approx([0.0, 1.0, 0.0] if alike else [-1.0, 2.0, 0.0], abs=2e-3)


def test_what_is_missed_is_measured_without_the_numbers_themselves():
    parts, goal, made = random_problem(5, rows=2, noise=0.7, levels=LEVELS)
    random = np.random.default_rng(1)
    weights, mixing = random.normal(size=(3, 3)), random.normal(size=(3, 4, 3, 4))
    for mixed in (None, mixing):
        rest = goal - plain_answer(list(parts), weights.tolist(), mixed, LEVELS)
        told = split(rest, LEVELS).double().square().flatten(1).sum(1)
        assert made.missed(weights, mixed) == pytest.approx(told.numpy(), rel=1e-4)


def test_of_prior_weights_and_mixing_each_band_keeps_what_misses_least():
    parts, goal, _ = random_problem(6, rows=4, levels=LEVELS)
    bands = split(goal, LEVELS)
    goal = bands[0] + split(parts[1], LEVELS)[1] + split(parts[0], LEVELS)[2]  # mixing, the newest as it is, the prior
    judge = Problem.of(parts, goal, LEVELS)
    roll = np.zeros((3, 4, 3, 4))
    roll[:, range(4), 1, np.roll(range(4), 1)] = 1.0
    roll[:, range(4), 1, range(4)] -= 1.0
    weights, mixing = kept(judge, np.array([1.0, 0.0, 0.0]), np.tile([0.0, 1.0, 0.0], (3, 1)), roll)
    assert weights.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert mixing[0].any()
    assert not mixing[1:].any()
    assert kept(judge, np.array([1.0, 0.0, 0.0]), np.tile([0.0, 1.0, 0.0], (3, 1)), np.zeros_like(roll))[1] is None


@pytest.mark.parametrize(("count", "t"), [(8, 2.998), (16, 2.602), (48, 2.408)])  # tables of Student's t, 99 %, count - 1
def test_the_alarm_is_what_one_sampling_in_a_hundred_exceeds(count, t):
    logs = torch.randn(count, generator=torch.Generator().manual_seed(count)).double() * 0.2 + 0.3
    wanted = math.exp(float(logs.mean()) + t * float(logs.std()) * math.sqrt(1 + 1 / count))
    assert alarm(logs.exp()) == pytest.approx(wanted, rel=0.005)
    assert alarm(logs[:3].exp()) == 0.0
    assert alarm(torch.cat([logs.exp(), torch.zeros(1)])) == 0.0


def test_a_plans_alarm_is_of_the_worst_exam_of_each_trajectory_next_to_what_is_expected(world):
    made = rehearse(world, MASK, (), mixes=False)
    seen, ratios = world.sample(made)[1], []
    for n in range(2, len(MASK)):
        a, b, c = (world.sigmas[step] for step in MASK[n - 2 : n + 1])
        line = seen[n - 1] + (c - b) / (b - a) * (seen[n - 1] - seen[n - 2])
        ratios.append((line - seen[n]).flatten(1).norm(dim=1) / seen[n].flatten(1).norm(dim=1) / made.exams[MASK[n]])
    assert made.alarm == pytest.approx(alarm(torch.stack(ratios).max(0).values), rel=1e-3)
    assert made.alarm > float(torch.stack(ratios).max()) > 1.0


def test_what_is_guessed_for_a_rehearsal_goes_by_the_trajectories_that_it_does_not_hold_out():
    begin, *velocities = torch.randn(4, 8, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    whole = Trajectory(begin, [1.0, 0.6, 0.3], velocities)
    others = Trajectory(begin[:7], [1.0, 0.6, 0.3], [velocity[:7] for velocity in velocities])
    seen = whole.statistics(LEVELS, 0.0, fitted=True)
    assert np.allclose(seen.gram, Trajectory.statistics(others, LEVELS, 0.0).gram)
    assert (seen.trajectories, whole.statistics(LEVELS, 0.0).trajectories) == (7, 8)
