"""Wan 2.2 A14B's way: one sampling in two halves, each by a model of its own, through the host's two KSamplerAdvanced."""

import pytest
import torch
from host_models import LATENT, BlockCalls, make, newest, prompt
from pack.cache_core import Recipe, Schedule, Site, Target
from pack.cache_core import published as p
from pack.cache_core.masks import budget, rescale
from pack.cache_core.policies import Carried, Mask, Never
from pack.cache_core.predictors import Hold, Lagrange
from pack.cache_core.tables import WAN_1B_MAGNITUDE, WAN_14B_LEMICA, place
from pack.cache_core.trace import Trajectory, calibrated, plan, save, universal
from pack.cache_core.trace.bands import LEVELS
from pack.nodes import calibrations
from pack.nodes.adapters import host
from pack.nodes.adapters.calibrate import described
from pack.nodes.automatic import Automatic
from pack.nodes.methods import METHODS
from recipes import published_methods

pytestmark = pytest.mark.host
STEPS, SWITCH = 16, 6


@pytest.fixture(scope="module")
def experts():
    """Two models of one kind: the second has other weights."""
    high, low = make("wan"), make("wan")
    with torch.no_grad():
        for parameter in low.model.diffusion_model.parameters():
            parameter.mul_(0.9)
    return high, low


def half(model, latent, first, last, noise):
    from nodes import KSamplerAdvanced

    more = "enable" if last < STEPS else "disable"
    with torch.inference_mode():
        return KSamplerAdvanced().sample(
            model, noise, 1, STEPS, 3.0, "euler", "simple", prompt(5, 11), prompt(5, 12), latent, first, last, more
        )[0]  # fmt: skip


def sample(high, low):
    """The latent at the switch and the last one."""
    start = {"samples": torch.zeros(1, *LATENT["wan"])}
    between = half(high, start, 0, SWITCH, "enable")
    return between["samples"], half(low, between, SWITCH, STEPS, "disable")["samples"]


def trace(latent):
    return "".join("rC"[entry.computed] for entry in newest(latent).entries)


RECIPES = {f"{n} {recipe.name}": recipe for n, recipe in enumerate(published_methods())}


def test_never_reusing_is_bit_identical(experts):
    for site in (Site.GUIDED, Site.STACK):
        cached = sample(*(host.attach(model, Recipe(Never(), Hold(), site)) for model in experts))
        assert all(torch.equal(a, b) for a, b in zip(sample(*experts), cached, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_begins_anew_at_the_switch(experts, name):
    """The second expert's run is the one it makes of that latent by itself, with nothing of the first one's in it."""
    high, low = (host.attach(model, RECIPES[name]) for model in experts)
    between, last = sample(high, low)
    assert [len(newest(latent).entries) for latent in (between, last)] == [SWITCH, STEPS - SWITCH]
    assert trace(last)[0] == "C"
    assert newest(last).entries[0].step == 0
    fresh = half(host.attach(experts[1], RECIPES[name]), {"samples": between}, SWITCH, STEPS, "disable")["samples"]
    assert torch.equal(last, fresh)


@pytest.mark.parametrize("node", METHODS, ids=lambda node: node.node_id)
def test_every_node_samples_both_halves(experts, node):
    settings = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default")}
    between, last = sample(*(node.PREPARE_CLASS_CLONE(None).execute(model=model, **settings).result[0] for model in experts))
    assert torch.isfinite(last).all()
    assert newest(between).evaluations + newest(last).evaluations == STEPS


def test_each_expert_holds_its_own_residual(experts):
    """By hand: each half's stack is held by a mask of its own steps."""
    mask = {SWITCH: {0, 1, 4}, STEPS - SWITCH: {0, 3, 4, 8}}

    def held(model, steps):
        kept, state, by_hand = {}, {"n": -1}, model.clone()

        def enter(args, extra):
            state["n"] += 1
            kept["x"] = args["img"].clone()
            return extra["original_block"](args)

        def leave(args, extra):
            out = extra["original_block"](args)
            if state["n"] in mask[steps]:
                kept["residual"] = out["img"] - kept["x"]
                return out
            return {**out, "img": kept["x"] + kept["residual"]}

        by_hand.set_model_patch_replace(enter, "dit", "double_block", 0)
        by_hand.set_model_patch_replace(leave, "dit", "double_block", 2)
        return by_hand

    lengths = (SWITCH, STEPS - SWITCH)
    expected = sample(*(held(model, steps) for model, steps in zip(experts, lengths, strict=True)))
    ours = [
        host.attach(model, Recipe(Mask(frozenset(mask[steps]), steps), Hold(), Site.STACK, Target.RESIDUAL))
        for model, steps in zip(experts, lengths, strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(expected, sample(*ours), strict=True))


def test_a_published_mask_and_curve_are_read_by_noise_level_not_from_their_start(experts):
    """By number, each half would be read as a whole sampling: the second one computed densely at its start again."""
    mask = WAN_14B_LEMICA[3]
    between, last = sample(*(host.attach(model, Recipe(Carried(mask), Lagrange(1))) for model in experts))
    high, low = ([entry.sigma for entry in newest(latent).entries] for latent in (between, last))
    parts = Schedule((*high, low[0])), Schedule((*low, 0.0))
    for part, latent in zip(parts, (between, last), strict=True):
        assert {n for n, letter in enumerate(trace(latent)) if letter == "C"} == rescale(mask, part, 5)
    assert rescale(mask, parts[1], 5) != rescale(mask, Schedule(tuple(1 - n / 10 for n in range(11))), 5)
    assert place(WAN_1B_MAGNITUDE, parts[1], 0) == WAN_1B_MAGNITUDE.step(low[0]) > 10


@pytest.mark.parametrize("recipe", [p.trace(2.0, guarded=False), Automatic(2.0, guarded=False)], ids=["TRACE", "Encore"])
def test_trace_plans_each_half_by_its_own_noise_levels_and_begins_anew_at_the_switch(experts, recipe):
    high, low = (host.attach(model, recipe) for model in experts)
    between, last = sample(high, low)
    sigmas = [[entry.sigma for entry in newest(latent).entries] for latent in (between, last)]
    for part, latent in zip(((*sigmas[0], sigmas[1][0]), (*sigmas[1], 0.0)), (between, last), strict=True):
        computed = {n for n, letter in enumerate(trace(latent)) if letter == "C"}
        assert computed == plan(universal(), Schedule(part), budget(len(part) - 1, 2.0)).computed
        assert newest(latent).source == "calibration universal"
        assert newest(latent).notes == [] or "Only 5 of" in newest(latent).notes[0]
    assert (newest(between).computed, newest(last).computed) == (5, 5)
    fresh = half(host.attach(experts[1], recipe), {"samples": between}, SWITCH, STEPS, "disable")["samples"]
    assert torch.equal(last, fresh)


def test_neither_half_is_learned_nor_forecast_by_what_an_expert_does_alone(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "OWN", tmp_path)
    into, high = Trajectory(), experts[0]
    half(host.attach(high, p.collect(into)), {"samples": torch.zeros(1, *LATENT["wan"])}, 0, STEPS, "enable")
    made = described(high, 3.0, "euler", (1, *LATENT["wan"]))
    save(calibrated("alone", into.statistics(LEVELS, 0.0), made, tries=2), tmp_path / "alone.safetensors")
    between, last = sample(*(host.attach(model, Automatic(2.0, learn=True)) for model in experts))
    for latent in (between, last):
        assert newest(latent).source == "calibration universal"
        assert any("Nothing is learned from a part of a sampling" in note for note in newest(latent).notes)
    assert "'alone' was made for whole samplings" in newest(between).notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["alone.safetensors"]


def test_the_blocks_of_both_experts_are_skipped(experts):
    with BlockCalls(experts[0]) as high, BlockCalls(experts[1]) as low:
        sample(*(host.attach(model, p.taylorseer(3)) for model in experts))
    assert high.evaluations == {4}
    assert low.evaluations == {5}
