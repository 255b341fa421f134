"""What the frontier compares TRACE with: reuse on a mask of its own, local least squares, published methods as single points."""

import random
import sys
from dataclasses import replace

import pytest
import torch
from pack.bench import frontier, plot
from pack.cache_core.trace import Statistics, cost, fit, search, universal
from pack.cache_core.trace import fit as fits
from pack.cache_core.trace.fit import Manner
from pack.demo import agreement
from pack.demo.agreement import DEFAULTS
from pack.demo.world import draw_scene
from PIL import Image
from policy_runs import flow
from trace_runs import statistics, trajectories


@pytest.fixture
def deaf(monkeypatch):
    """A model whose velocity does not depend on the latent."""
    module = sys.modules[fits.__module__]
    monkeypatch.setattr(module, "SLOPES", (0.0, 0.0))
    monkeypatch.setattr(module, "UNKNOWN", (0.0, 0.0))


def test_the_error_of_reuse_is_that_of_a_plain_loop(deaf):
    schedule, mask = flow(20), [0, 3, 5, 7, 10, 12, 15, 19]
    start, velocities = trajectories(schedule)
    x, teacher, last = start, start, None
    for n, velocity in enumerate(velocities):
        last = velocity if n in mask else last
        stride = schedule.sigmas[n + 1] - schedule.sigmas[n]
        x, teacher = x + stride * last, teacher + stride * velocity
    known = Statistics.of(start, velocities, schedule.sigmas[:-1], (), 0.0)
    assert frontier.holding(known)(mask) == pytest.approx(float((x - teacher).norm() / teacher.norm()), rel=1e-4)


def test_reuse_has_a_mask_that_is_searched_for_it():
    known = statistics(flow(20))
    costs = frontier.holding(known)
    own, lines = search(costs, 20, 6, tries=200), search(cost(known, fitted=False), 20, 6, tries=200)
    assert costs(own) < costs(lines)
    found = {each.method: each.recipe for each in frontier.entries(universal(), universal(), DEFAULTS["flux"], "flux", 4.0)}
    assert found["reuse_own_mask"].policy != found["reuse"].policy
    assert found["reuse_own_mask"].predictor == found["reuse"].predictor


def test_local_least_squares_imitates_the_teacher_on_the_searched_mask():
    found = {each.method: each.recipe for each in frontier.entries(universal(), universal(), DEFAULTS["flux"], "flux", 2.0)}
    made, searched = found["local_least_squares"].predictor.planner.only, found["order_1_searched_mask"].policy
    assert made.computed == searched.computed
    assert made.weights == fit(universal().statistics.whole(), made.computed, Manner(terms=frontier.IMITATES)).weights
    assert all(row[-1] == 0.0 for rows in made.weights.values() for row in rows)  # nothing of the latent


def test_a_method_of_a_single_point_has_its_name_beside_it_and_no_line(tmp_path):
    made = [{"model": "demo-flux", "method": m, "macs_reduction": x, "psnr_db": 60 - x} for m, x in (("a", 2.0), ("a", 4.0), ("b", 3.0))]
    plot.frontier(made, tmp_path / "frontier.png")
    colours = {colour for _, colour in Image.open(tmp_path / "frontier.png").convert("RGB").getcolors(1 << 20)}
    assert plot.ALONE in colours
    assert plot.COLOURS[0] in colours
    assert plot.COLOURS[1] not in colours


def test_a_setting_of_another_size_has_a_latent_of_that_size():
    scenes = [draw_scene(random.Random(1))]
    *_, latent = agreement.conditions("flux", scenes, replace(DEFAULTS["flux"], side=96))
    assert latent.shape == (1, 16, 24, 24)
    assert torch.equal(agreement.conditions("flux", scenes, DEFAULTS["flux"])[2], torch.zeros(1, 16, 16, 16))
