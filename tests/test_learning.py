"""How the node Encore learns a model while one works: what it learns from, what it leaves alone, and when lessons overlap."""

import threading

import comfy.samplers
import host_models
import pytest
import torch
from pack.cache_core import CacheError, Schedule
from pack.cache_core.masks import budget
from pack.cache_core.trace import Trajectory, calibrated, load
from pack.nodes import calibrations, learning
from pack.nodes.adapters.choice import Situation
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.solvers import named, shown
from pack.nodes.automatic import Automatic
from pack.nodes.learning import LESSONS, Path

pytestmark = pytest.mark.host
LORA = "diffusion_model.img_in.weight"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "OWN", tmp_path)
    monkeypatch.setattr(calibrations, "SHIPPED", tmp_path / "none")
    monkeypatch.setattr(learning, "calibrated", lambda *args, **given: calibrated(*args, tries=2, **given))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return host_models.make("flux")


def learner(model, speed=2.0, **settings):
    ledgers = []
    return attach(model, Automatic(speed, learn=True, guarded=False, **settings), ledgers.append), ledgers


def studied():
    """Wait until what is being learned is there."""
    for thread in threading.enumerate():
        if thread.name == "Encore learns":
            thread.join()


def begin(model, steps=12):
    """A lesson that has begun: its trajectory and how it ends."""
    schedule = Schedule(tuple(1 - n / steps for n in range(steps + 1)))
    choice = Automatic(learn=True)(Situation(model, schedule, "euler", 1.0, (1, *host_models.LATENT["flux"])))
    return choice


def end(choice, steps=12):
    """What a sampling that went straight would have left, and its end."""
    into, x, v = choice.recipe.policy.into, torch.ones(1, *host_models.LATENT["flux"]), torch.full((1, *host_models.LATENT["flux"]), 0.5)
    for n in range(steps):
        sigma = 1 - n / steps
        into.add(sigma, x + (sigma - 1) * v, v)
    choice.finish(Ended(steps))


class Ended:
    """As much of a ledger as the end of a lesson looks at."""

    def __init__(self, evaluations):
        self.evaluations, self.notes = evaluations, []

    def note(self, text):
        self.notes.append(text)


def test_it_learns_from_uncached_samplings_and_then_goes_by_what_it_learned(folder, model):
    attached, ledgers = learner(model)
    for seed in range(LESSONS):
        ours = host_models.sample(attached, "flux", steps=12, seed=seed)
        assert torch.equal(ours, host_models.sample(model, "flux", steps=12, seed=seed))
        assert f"{seed + 1} of {LESSONS}" in ledgers[-1].notes[0]
    studied()
    (file,) = folder.iterdir()
    assert file.name.startswith("learned-")
    assert "lora" not in file.name
    host_models.sample(attached, "flux", steps=12, seed=9)
    assert ledgers[-1].computed == budget(12, 2.0)
    assert ledgers[-1].source == f"calibration {file.stem}"


def test_speed_1_learns_too_and_stays_the_uncached_sampling(folder, model):
    attached, ledgers = learner(model, 1.0)
    for seed in range(LESSONS + 1):
        ours = host_models.sample(attached, "flux", steps=12, seed=seed)
        studied()
        assert torch.equal(ours, host_models.sample(model, "flux", steps=12, seed=seed))
    assert [ledger.notes[0].split(",")[1].strip() for ledger in ledgers[:-1]] == [f"{n + 1} of {LESSONS}" for n in range(LESSONS)]
    assert ledgers[-1].computed == 12
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_each_schedule_has_lessons_of_its_own(model):
    attached, ledgers = learner(model)
    for steps in (12, 12, 8, 12):
        host_models.sample(attached, "flux", steps=steps)
    assert [ledger.notes[0].split(",")[1].strip() for ledger in ledgers] == [f"{n} of {LESSONS}" for n in (1, 2, 1, 3)]


def test_two_loras_have_lessons_and_files_of_their_own(folder, model):
    ledgers = []
    for _ in range(LESSONS):
        for value in (1.0, 2.0):
            patched = model.clone()
            patched.add_patches({LORA: ("diff", (torch.full_like(model.model.diffusion_model.img_in.weight, value * 1e-3),))}, 0.5)
            attached, ledgers = learner(patched)
            host_models.sample(attached, "flux", steps=8)
            assert "Learning" in ledgers[-1].notes[0]
    studied()
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 2
    assert all("-lora" in name and name.endswith(".safetensors") for name in names)
    host_models.sample(attached, "flux", steps=8)
    assert ledgers[-1].source.removeprefix("calibration ") + ".safetensors" in names


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"denoise": 0.5}, "from a part of a sampling"),
        ({"sigmas": torch.linspace(1.0, 0.5, 9)}, "from a part of a sampling"),
        ({"sigmas": torch.linspace(0.5, 0.0, 9)}, "from a part of a sampling"),
        ({"sampler": "euler_ancestral"}, "from the sampler euler_ancestral"),
        ({"sampler": "dpmpp_2m_sde"}, "from the sampler dpmpp_2m_sde"),
        ({"sampler": "heun"}, "from the sampler heun"),
        ({"steps": 5}, "from 5 steps"),
    ],
)
def test_nothing_is_learned_from_other_samplings_which_are_forecast_and_the_report_says_why(folder, model, more, words):
    attached, ledgers = learner(model)
    host_models.sample(attached, "flux", **{"steps": 12} | more)
    assert any(f"Nothing is learned {words}" in note for note in ledgers[0].notes)
    assert ledgers[0].reused > 0 or more.get("steps") == 5
    assert list(folder.iterdir()) == []


def test_speed_1_says_too_why_nothing_is_learned(model):
    attached, ledgers = learner(model, 1.0)
    host_models.sample(attached, "flux", steps=12, denoise=0.5)
    assert "from a part of a sampling" in ledgers[0].notes[0]


def test_euler_that_adds_noise_is_no_lesson(folder, model):
    noisy = comfy.samplers.ksampler("euler", {"s_churn": 2.0})
    attached, ledgers = learner(model)
    host_models.sample(attached, "flux", steps=12, sampler=noisy)
    assert "Nothing was learned from this sampling" in ledgers[0].notes[1]
    assert list(folder.iterdir()) == []


def test_a_masked_sampling_is_no_lesson(folder, model):
    attached, ledgers = learner(model)
    latent, mask = torch.ones(1, *host_models.LATENT["flux"]), torch.zeros(1, 1, 8, 8)
    mask[..., :6] = 1.0
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        comfy.sample.sample(
            attached, noise, 12, 1.0, "euler", "simple", host_models.prompt(5, 11), host_models.prompt(5, 12), latent,
            noise_mask=mask, disable_pbar=True, seed=1,
        )  # fmt: skip
    assert "such as a mask" in ledgers[0].notes[1]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc", "ddim"])
def test_it_learns_from_samplers_whose_rule_is_known(folder, model, sampler):
    attached, ledgers = learner(model)
    for seed in range(LESSONS):
        host_models.sample(attached, "flux", steps=12, seed=seed, sampler=sampler)
    studied()
    (file,) = folder.iterdir()
    known = load(file)
    assert known.about["sampler"] == {"ddim": "euler"}.get(sampler, sampler)
    levels = (*known.statistics.sigmas, known.statistics.end)
    solver = shown(named(sampler, levels, model.model), levels)
    assert known.masks == calibrated("", known.statistics, {}, tries=2, solver=solver).masks
    host_models.sample(attached, "flux", steps=12, seed=9, sampler=sampler)
    assert ledgers[-1].source == f"calibration {file.stem}"


def test_a_masked_sampling_of_a_multistep_sampler_is_no_lesson_either(folder, model):
    attached, ledgers = learner(model)
    latent, noise = torch.ones(1, *host_models.LATENT["flux"]), torch.randn(1, *host_models.LATENT["flux"])
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :6] = 1.0
    told = host_models.prompt(5, 11), host_models.prompt(5, 12), latent
    with torch.inference_mode():
        comfy.sample.sample(attached, noise, 12, 1.0, "dpmpp_2m", "simple", *told, noise_mask=mask, disable_pbar=True, seed=1)
    assert "such as a mask" in ledgers[0].notes[1]


def test_a_path_sees_how_far_the_sampler_strayed_from_eulers_steps():
    x, v = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    straight, bent = (Path(schedule=Schedule((1.0, 0.8, 0.5, 0.4, 0.0))) for _ in range(2))
    for n, sigma in enumerate((1.0, 0.8, 0.5, 0.4)):
        straight.add(sigma, x + (sigma - 1.0) * v, v)
        bent.add(sigma, x + (sigma - 1.0 - 0.05 * (n > 1)) * v, v)  # once, and straight on from there
    assert straight.strayed < 1e-6
    assert bent.strayed == pytest.approx(0.05 / 0.3, rel=1e-4)
    assert straight.sigmas == [1.0, 0.8, 0.5, 0.4]
    assert isinstance(straight, Trajectory)


def test_lessons_that_overlap_are_counted_when_they_end_and_no_more_than_four_are_kept(folder, model, monkeypatch):
    waits, studies = threading.Event(), []

    def slow(shelf, name, *rest):
        studies.append(shelf.filled())
        waits.wait(20)
        return calibrated_then(shelf, name, *rest)

    calibrated_then = learning.study
    monkeypatch.setattr(learning, "study", slow)
    lessons = [begin(model) for _ in range(LESSONS + 2)]
    assert all("1 of 4" in lesson.notes[0] for lesson in lessons)
    for lesson in lessons[:-1]:
        end(lesson)  # the fifth ends while the study is on: it is not kept, and begins no other
    meanwhile = begin(model)
    assert "is being made of 4 samplings" in meanwhile.notes[0]
    assert meanwhile.finish is None
    waits.set()
    studied()
    end(lessons[-1])  # the sixth ends when all is done
    assert studies == [LESSONS]
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]
    assert begin(model).recipe.predictor.planner.calibration.name == next(folder.iterdir()).stem


def test_a_study_that_was_cut_short_is_begun_again(folder, model, monkeypatch):
    monkeypatch.setattr(learning, "_begin", lambda *args: None)  # the server was stopped
    for _ in range(LESSONS):
        end(begin(model))
    monkeypatch.undo()
    monkeypatch.setattr(calibrations, "OWN", folder)
    monkeypatch.setattr(learning, "calibrated", lambda *args, **given: calibrated(*args, tries=2, **given))
    assert "is being made" in begin(model).notes[0]
    studied()
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_a_study_that_fails_leaves_nothing_behind_and_lessons_begin_anew(folder, model, monkeypatch):
    def fails(*args):
        raise CacheError("no")

    monkeypatch.setattr(learning, "calibrated", fails)
    monkeypatch.setattr(threading, "excepthook", lambda *args: None)
    for _ in range(LESSONS):
        end(begin(model))
    studied()
    assert list(folder.iterdir()) == []
    assert "1 of 4" in begin(model).notes[0]


def test_a_shelf_with_too_little_on_it_makes_no_calibration(folder, model):
    shelf = learning.Shelf(folder / "x.unfinished", "key")
    learning.study(shelf, "x", {})
    assert list(folder.iterdir()) == []


def test_another_size_starts_the_lessons_anew(model):
    attached, ledgers = learner(model)
    for shape in ((16, 8, 8), (16, 8, 8), (16, 4, 4)):
        host_models.sample(attached, "flux", steps=8, shape=shape)
    assert [ledger.notes[0].split(",")[1].strip() for ledger in ledgers] == [f"{n} of {LESSONS}" for n in (1, 2, 1)]
