"""TRACE's calibrations as files and as nodes, and its way through the host: the plan it follows and how near it comes."""

import json
from types import SimpleNamespace

import host_models
import numpy as np
import pytest
import torch
from pack.cache_core import CacheError, RecipeError, Schedule, Site
from pack.cache_core import published as p
from pack.cache_core.masks import budget
from pack.cache_core.trace import Calibration, Trajectory, calibrated, even, load, plan, save
from pack.cache_core.trace.bands import LEVELS
from pack.nodes import calibrations
from pack.nodes import trace as trace_nodes
from pack.nodes.adapters import calibrate
from pack.nodes.adapters.host import attach
from policy_runs import flow
from safetensors import safe_open
from safetensors.torch import save_file
from trace_runs import statistics


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


def test_a_file_from_before_channels_mixed_is_still_read(tmp_path):
    path, made = tmp_path / "c.safetensors", calibrated("mine", statistics(flow(20), LEVELS), {}, tries=5)
    save(made, path)
    with safe_open(path, "pt") as file:
        header, gram = json.loads(file.metadata()["encore"]), file.get_tensor("gram")
    save_file({"gram": gram}, path, {"encore": json.dumps(header | {"format": 2})})
    assert load(path).masks == made.masks


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
    seen = []
    monkeypatch.setattr(trace_nodes, "trace", lambda speed, used, *rest: seen.append(used) or p.trace(speed, used, *rest))
    trace_nodes.EncoreTrace.execute(model, 1.4, "mine")
    trace_nodes.EncoreTrace.execute(host_models.make("wan"), 1.4, "mine")
    assert [len(used.plans) for used in seen] == [1, 0]  # a plan rehearsed on another model means nothing here
    with pytest.raises(CacheError, match="cannot be called"):
        calibrations.place_for("../mine")
