"""The judge reads the shapes world, and its numbers mean what they say."""

import json
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from pack.demo import agreement, codec, judge
from pack.demo.judge import __main__ as training
from pack.demo.judge.network import FILE
from pack.demo.world import FRAMES, Scene, Thing, draw_scene, render
from safetensors import safe_open
from scipy.linalg import sqrtm

PICTURES = 128
RING = Thing("ring", "green", "dotted", "small", "top")
STAR = Thing("star", "red", "plain", "large", "left")
SCENE = Scene((RING, STAR), "navy")


@cache
def stills(seed=77):
    rng = random.Random(seed)
    scenes = [draw_scene(rng) for _ in range(PICTURES)]
    return render(scenes, rng), scenes


@cache
def clips(seed=78, count=PICTURES):
    rng = random.Random(seed)
    scenes = [draw_scene(rng, moving=True) for _ in range(count)]
    return render(scenes, rng, FRAMES), scenes


def clip_ends():
    frames, scenes = clips()
    return frames[:, -1:], [scene.after() for scene in scenes]


def gaussian(mean, covariance, count=400, seed=0):
    """Rows whose mean and covariance are exactly these."""
    rows = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows - rows.mean(0)
    rows = torch.linalg.solve_triangular(torch.linalg.cholesky(rows.T.cov()), rows.T, upper=False).T
    return rows @ torch.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize("coded", [False, True], ids=["raw", "through the codec"])
@pytest.mark.parametrize("draw", [stills, clip_ends])
def test_shipped_judge_reads_every_attribute_of_fresh_renders(draw, coded):
    frames, scenes = draw()
    frames = codec.decode(codec.encode(frames)) if coded else frames
    rates = judge.agreement(judge.as_pictures(frames), scenes)
    assert min(rates.values()) > 0.97, rates


def test_weights_are_small_and_say_how_well_they_read():
    assert FILE.stat().st_size < 4 << 20
    with safe_open(FILE, "pt") as file:
        held_out = json.loads(file.metadata()["held_out"])
    assert held_out["pictures"] >= 1000
    assert min(rate for rates in held_out["rates"].values() for rate in rates.values()) > 0.97


def test_a_reading_is_the_scene():
    (reading,) = judge.read(judge.as_pictures(render([SCENE], random.Random(0))))
    assert set(reading.things) == set(SCENE.things)
    assert reading.background == "navy"
    assert judge.misses(reading, SCENE) == []


def test_misses_are_named_in_the_prompts_words():
    (reading,) = judge.read(judge.as_pictures(render([SCENE], random.Random(0))))
    assert judge.misses(reading, Scene((replace(RING, colour="blue"), STAR), "grey")) == ["blue", "grey"]
    moved = Scene((RING, replace(STAR, place="bottom")), "navy")
    assert judge.misses(reading, moved) == ["bottom", "star", "red", "plain", "large"]


def test_agreement_falls_when_captions_are_shuffled():
    frames, scenes = stills()
    rates = judge.agreement(judge.as_pictures(frames), scenes[1:] + scenes[:1])
    assert rates["mean"] < 0.2
    assert rates["place"] < 0.28  # two of nine places


def test_nothing_of_a_thing_is_found_where_nothing_stands():
    bare = torch.full((4, 3, 64, 64), 0.45)
    rates = judge.agreement(bare, [replace(SCENE, background="grey")] * 4)
    assert rates["background"] == 1.0
    assert [rates[name] for name in ("kind", "colour", "texture", "size")] == [0.0] * 4


def test_agreement_refuses_pictures_without_scenes():
    with pytest.raises(ValueError, match=r"2 picture\(s\), 1 scene"):
        judge.agreement(torch.zeros(2, 3, 64, 64), [SCENE])


def test_frechet_of_a_set_with_itself_is_nothing_and_grows_with_a_shift():
    rows = judge.features(judge.as_pictures(stills()[0]))
    near, far = (judge.frechet(rows, rows + shift) for shift in (0.1, 0.2))
    assert judge.frechet(rows, rows) == pytest.approx(0, abs=1e-9)
    assert near == pytest.approx(rows.shape[1] * 0.1**2, rel=1e-3)
    assert far == pytest.approx(rows.shape[1] * 0.2**2, rel=1e-3)


def test_frechet_has_the_closed_form_of_gaussians():
    mean, scale = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 1.0, 3.0]).double()
    one, other = gaussian(torch.zeros(3).double(), torch.eye(3).double()), gaussian(mean, scale.square().diag(), seed=1)
    assert judge.frechet(one, other) == pytest.approx(float(mean @ mean + (scale - 1).square().sum()), rel=1e-9)
    skew = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, -0.3], [0.0, -0.3, 0.7]]).double()
    third = gaussian(torch.zeros(3).double(), skew, seed=2)
    cross = sqrtm((scale.square().diag() @ skew).numpy()).real.trace()
    expected = float(mean @ mean + scale.square().sum() + skew.trace()) - 2 * cross
    assert judge.frechet(other, third) == pytest.approx(expected, rel=1e-9)
    assert judge.frechet(third, other) == pytest.approx(expected, rel=1e-9)


def test_frechet_tells_clean_pictures_from_rough_ones():
    clean, other = (judge.features(judge.as_pictures(stills(seed)[0])) for seed in (77, 2))
    pictures = judge.as_pictures(stills(2)[0])
    grain = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    rough = judge.features((pictures + 0.2 * grain).clamp(0, 1))
    assert judge.frechet(clean, rough) > 2 * judge.frechet(clean, other)


def test_a_clip_is_judged_by_where_it_begins_and_where_it_ends():
    frames, scenes = clips(count=64)
    assert agreement.score("wan", frames, scenes)["all"]["mean"] > 0.97
    frozen = agreement.score("wan", frames[:, :1].expand_as(frames), scenes)
    assert frozen["first"]["mean"] > 0.97
    assert frozen["last"]["place"] < 0.8
    assert frozen["all"]["place"] == pytest.approx((frozen["first"]["place"] + frozen["last"]["place"]) / 2)


def test_the_contact_sheet_shows_every_frame_of_a_clip():
    frames, scenes = clips(count=3)
    page = agreement.sheet("wan", frames, scenes, zoom=1)
    shown = torch.from_numpy(np.array(page)[:64, :320].copy()).view(64, FRAMES, 64, 3).movedim(1, 0)
    assert torch.equal(shown, (255 * frames[0]).round().byte())


def test_training_goes_on_after_a_stop_as_if_it_had_not_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "STATE", tmp_path)
    monkeypatch.setattr(training, "STILLS", 4)
    monkeypatch.setattr(training, "CLIPS", 2)
    whole = training.Trainer(steps=4, seed=3)
    whole.step()
    training.write(tmp_path / "judge.safetensors", whole.tensors(), {"step": str(whole.done)})
    resumed = training.Trainer(steps=4, seed=99)
    resumed.seed = 3
    resumed.resume()
    assert whole.step() == resumed.step()
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in whole.tensors().items())
