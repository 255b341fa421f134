"""What the node Encore chooses when a sampling begins, and how it learns a model while one works."""

from dataclasses import replace

import host_models
import pytest
import torch
from pack.cache_core import Schedule, Site
from pack.cache_core import published as p
from pack.cache_core.masks import budget
from pack.cache_core.trace import Trajectory, calibrated, plan, save, universal
from pack.cache_core.trace.bands import LEVELS
from pack.nodes import calibrations
from pack.nodes.adapters.calibrate import described
from pack.nodes.adapters.choice import Situation
from pack.nodes.adapters.host import attach
from pack.nodes.automatic import Automatic

pytestmark = pytest.mark.host


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "OWN", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return host_models.make("flux")


def situation(model, sampler="euler", cfg=1.0, steps=16, top=1.0):
    sigmas = tuple(top * (1 - n / steps) for n in range(steps + 1))
    return Situation(model, Schedule(sigmas), sampler, cfg, (1, *host_models.LATENT["flux"]))


def keep(folder, model, name, cfg=1.0, size=None, steps=16):
    """A calibration of the model on the schedule of a situation, in the folder."""
    into = Trajectory()
    host_models.sample(attach(model, p.collect(into)), "flux", sigmas=torch.tensor(situation(model, steps=steps).schedule.sigmas))
    made = described(model, cfg, "euler", (1, *host_models.LATENT["flux"])) | ({"size": size} if size else {})
    save(calibrated(name, into.statistics(LEVELS, 0.0), made, tries=2), folder / f"{name}.safetensors")


def test_without_a_calibration_of_the_model_the_universal_one_serves(folder, model):
    choice = Automatic(3.0)(situation(model, steps=30))
    assert choice.recipe == p.planned(choice.recipe.predictor.planner, "Encore 3x")
    assert choice.recipe.predictor.planner.calibration is universal()
    assert choice.notes == ()


def test_the_report_is_told_where_few_steps_are_left_to_forecast_from(folder, model):
    assert [Automatic(speed)(situation(model, steps=28)).notes for speed in (2.0, 3.0)] == [(), ()]
    (note,) = Automatic(4.0)(situation(model, steps=28)).notes
    assert note.startswith("Only 6 of 28 steps are computed")
    assert Automatic(4.0)(situation(model, steps=4)).notes == ()  # all are computed
    assert Automatic(4.0, error=0.1)(situation(model, steps=28)).notes == ()  # the goal is an error


def test_a_calibration_of_this_model_is_found_the_nearest_in_cfg_first(folder, model):
    for name, cfg in (("one", 1.0), ("two", 2.0)):
        keep(folder, model, name, cfg)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    chosen = {cfg: Automatic()(situation(model, cfg=cfg)).recipe.predictor.planner.calibration.name for cfg in (1.0, 1.3, 1.6, 2.9)}
    assert chosen == {1.0: "one", 1.3: "one", 1.6: "two", 2.9: "two"}
    far = Automatic()(situation(model, cfg=7.0))
    assert far.recipe.predictor.planner.calibration is universal()
    assert "'two' was made at CFG 2.0, too far from 7" in far.notes[0]
    assert far.notes[0].endswith("Calibrate for these settings, or switch learn on.")


def test_at_equal_cfg_the_one_of_the_same_size_is_taken(folder, model):
    keep(folder, model, "another", size=[64, 64])
    keep(folder, model, "same")
    assert Automatic()(situation(model)).recipe.predictor.planner.calibration.name == "same"


def test_one_of_another_schedule_is_left_alone_and_the_report_says_what_differs(folder, model):
    keep(folder, model, "sixteen")
    shifted = tuple(3 * s / (1 + 2 * s) for s in situation(model).schedule.sigmas)
    others = {
        "was made for 16 steps, and these are 20; universal serves. Calibrate": situation(model, steps=20),
        "was made for another scheduler or shift; universal serves. Calibrate": replace(situation(model), schedule=Schedule(shifted)),
        "was made for whole samplings, and this is a part of one; universal serves.": situation(model, top=0.5),
    }
    for words, other in others.items():
        choice = Automatic()(other)
        assert choice.recipe.predictor.planner.calibration is universal()
        assert f"Calibration 'sixteen' {words}" in choice.notes[0]
    assert "learn on" not in choice.notes[0]  # a part of a sampling cannot be learned
    nearly = Schedule(tuple(sigma * (1 + 5e-5) for sigma in situation(model).schedule.sigmas))
    assert Automatic()(replace(situation(model), schedule=nearly)).recipe.predictor.planner.calibration.name == "sixteen"


def test_of_several_schedules_the_one_at_hand_is_taken(folder, model):
    for steps in (12, 16):
        keep(folder, model, f"of {steps}", steps=steps)
    chosen = [Automatic()(situation(model, steps=steps)).recipe.predictor.planner.calibration.name for steps in (12, 16)]
    assert chosen == ["of 12", "of 16"]


def test_a_calibration_of_other_weights_or_loras_is_left_alone(folder, model):
    keep(folder, model, "mine")
    other = host_models.make("flux")
    with torch.no_grad():
        next(v for v in other.model.diffusion_model.parameters() if v.ndim == 1).add_(0.5)
    patched = model.clone()
    patched.patches = {"diffusion_model.img_in.weight": [(0.8, None, 1.0, None, None)]}
    for stranger in (other, patched):
        assert Automatic()(situation(stranger)).recipe.predictor.planner.calibration is universal()


def test_where_trace_does_not_fit_order_1_serves_and_the_report_says_why(folder, model):
    choice = Automatic(2.0, site=Site.COND)(situation(model, top=14.6))
    assert choice.recipe == p.encore(2.0, "flux", Site.COND)
    assert "start at 14.6" in choice.notes[0]


@pytest.mark.parametrize(("sampler", "noisy"), [("dpmpp_2m", False), ("heun", False), ("euler_ancestral", True), ("dpmpp_2m_sde", True)])
def test_every_solver_is_forecast_and_of_one_that_adds_noise_the_report_warns(folder, model, sampler, noisy):
    choice = Automatic(2.0)(situation(model, sampler=sampler))
    assert choice.recipe.predictor.planner.calibration is universal()
    assert any("adds noise" in note for note in choice.notes) is noisy


def test_an_error_is_the_goal_where_it_is_given(folder, model):
    recipe = Automatic(2.0, error=0.01)(situation(model)).recipe
    schedule = situation(model).schedule
    found = recipe.predictor.planner.plan(schedule)
    assert found is None or found.error <= 0.01
    assert recipe.name == "Encore to 0.01"


def test_speed_1_is_the_uncached_sampling_bit_for_bit(folder, model):
    ours = host_models.sample(attach(model, Automatic(1.0)), "flux", steps=8)
    assert torch.equal(ours, host_models.sample(model, "flux", steps=8))


def test_the_plan_is_the_one_that_the_ledger_shows(folder, model):
    ledgers = []
    host_models.sample(attach(model, Automatic(2.0, guarded=False), ledgers.append), "flux", steps=20)
    (ledger,) = ledgers
    schedule = Schedule((*(entry.sigma for entry in ledger.entries), 0.0))
    assert {entry.step for entry in ledger.entries if entry.computed} == plan(universal(), schedule, budget(20, 2.0)).computed


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_distilled_models_few_steps_are_all_computed_and_the_report_says_why(folder, model, steps):
    ledgers = []
    ours = host_models.sample(attach(model, Automatic(3.0), ledgers.append), "flux", steps=steps)
    assert ledgers[0].computed == steps
    assert all("too few" in entry.reason for entry in ledgers[0].entries[1:])
    assert torch.equal(ours, host_models.sample(model, "flux", steps=steps))


def test_eight_steps_compute_five(folder, model):
    ledgers = []
    host_models.sample(attach(model, Automatic(3.0, guarded=False), ledgers.append), "flux", steps=8)
    assert ledgers[0].computed == 5


def test_a_picture_that_is_begun_half_way_is_forecast_on_what_is_left_of_the_schedule(folder, model):
    ledgers = []
    attached = attach(model, Automatic(2.0, guarded=False), ledgers.append)
    half = host_models.sample(attached, "flux", steps=16, denoise=0.5)
    assert ledgers[0].computed == budget(16, 2.0)
    assert max(entry.sigma for entry in ledgers[0].entries) < 0.9
    assert torch.equal(half, host_models.sample(attached, "flux", steps=16, denoise=0.5))


def test_two_samplers_that_share_a_schedule_are_two_samplings(folder, model):
    """As two KSampler (Advanced) do: the second begins where the first one stopped, with nothing of it left."""
    ledgers = []
    attached = attach(model, Automatic(2.0, guarded=False), ledgers.append)
    sigmas = torch.linspace(1.0, 0.0, 25)
    for part in (sigmas[:13], sigmas[12:]):
        first = host_models.sample(attached, "flux", sigmas=part)
        assert ledgers[-1].computed == budget(12, 2.0)
        assert ledgers[-1].entries[0].computed
        assert torch.equal(first, host_models.sample(attached, "flux", sigmas=part))
    assert len(ledgers) == 4


@pytest.mark.parametrize(("sampler", "evaluations"), [("heun", 23), ("dpm_2", 23), ("euler_ancestral", 12), ("lcm", 12)])
def test_solvers_of_two_evaluations_and_noisy_ones_finish_and_all_evaluations_are_accounted_for(folder, model, sampler, evaluations):
    ledgers = []
    ours = host_models.sample(attach(model, Automatic(2.0), ledgers.append), "flux", steps=12, sampler=sampler)
    assert ours.isfinite().all()
    assert ledgers[0].evaluations == evaluations
    assert ledgers[0].computed + ledgers[0].reused == evaluations
