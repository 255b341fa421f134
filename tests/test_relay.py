"""Encore Relay: the same as two KSamplerAdvanced, with the first model gone at the hand-over, and one report."""

import comfy.model_management as mm
import pytest
import torch
from host_models import LATENT, make, prompt
from pack.cache_core import CacheError
from pack.nodes.adapters import reports, residence
from pack.nodes.adapters.relay import Course, Leg, handover, run
from pack.nodes.cache import Encore
from pack.nodes.relay import EncoreRelay
from pack.nodes.report import EncoreReport

pytestmark = pytest.mark.host
STEPS = 6


@pytest.fixture(scope="module")
def pair():
    first, second = make("flux"), make("flux")
    with torch.no_grad():
        for value in second.model.diffusion_model.parameters():
            value.mul_(0.9)
    return first, second


def empty(batch=1):
    return {"samples": torch.zeros(batch, *LATENT["flux"])}


def advanced(model, latent, cfg, span, leftover, sampler="euler", scheduler="simple"):
    """ComfyUI's own node."""
    from nodes import KSamplerAdvanced

    noise = "enable" if span[0] == 0 else "disable"
    with torch.inference_mode():
        return KSamplerAdvanced().sample(
            model, noise, 5, STEPS, cfg, sampler, scheduler, prompt(5, 11), prompt(7, 12), latent, *span, leftover
        )[0]


def relay(first, second, sigma, latent, *, cfg=1.0, solver=("euler", "simple"), **more):
    with torch.inference_mode():
        return EncoreRelay.PREPARE_CLASS_CLONE(None).execute(
            model=first, model_after=second, sigma=sigma, seed=5, steps=STEPS, cfg=cfg, cfg_after=1.0, sampler_name=solver[0],
            scheduler=solver[1], positive=prompt(5, 11), negative=prompt(7, 12), latent_image=latent, **more,
        ).result[0]  # fmt: skip


def sigmas(model, scheduler="simple"):
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, STEPS)


@pytest.mark.parametrize(("sampler", "scheduler"), [("euler", "simple"), ("euler_ancestral", "beta")])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_relay_is_two_samplers_bit_for_bit(pair, step, sampler, scheduler):
    first, second = pair
    half = advanced(first, empty(2), 2.0, (0, step), "enable", sampler, scheduler)
    whole = advanced(second, half, 1.0, (step, 10000), "disable", sampler, scheduler)
    at = float(sigmas(first, scheduler)[step - 1])
    made = relay(first, second, at, empty(2), cfg=2.0, solver=(sampler, scheduler))
    assert torch.equal(made["samples"], whole["samples"])


def test_one_model_alone_where_the_level_lies_outside(pair):
    first, second = pair
    for level, only in ((0.0, first), (5.0, second)):
        whole = advanced(only, empty(), 1.0, (0, 10000), "disable")
        assert torch.equal(relay(first, second, level, empty())["samples"], whole["samples"])


def test_the_level_says_whose_steps_they_are():
    levels = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0])
    assert [handover(levels, at) for at in (2.0, 1.0, 0.9, 0.875, 0.2, 0.0)] == [0, 1, 2, 2, 4, 4]


def test_the_first_model_is_offloaded_before_the_second_begins(pair, monkeypatch):
    first, second = pair
    seen = []

    def watch(models, *args, _load=mm.load_models_gpu, **kwargs):
        seen.append([residence.is_loaded(one) for one in pair])
        return _load(models, *args, **kwargs)

    mm.unload_all_models()
    monkeypatch.setattr(mm, "load_models_gpu", watch)
    relay(first, second, 0.5, empty())
    assert seen == [[False, False], [False, False]]
    assert [residence.is_loaded(one) for one in pair] == [False, True]
    relay(second, second.clone(), 0.5, empty())
    assert residence.is_loaded(second), "one model on both sides stays"


def test_caches_on_both_and_one_report_of_the_pair(pair):
    first, second = (Encore.PREPARE_CLASS_CLONE(None).execute(one, 1.5).result[0] for one in pair)
    made = relay(first, second, float(sigmas(pair[0])[2]), empty())
    (ledger, *_) = reports.find(made["samples"])
    assert ledger.recipe.startswith("Relay: ")
    assert [entry.step for entry in ledger.entries] == list(range(STEPS))
    assert ledger.steps == STEPS
    assert "before step 3 of 6" in ledger.notes[0]
    assert ledger.macs is not None
    text = EncoreReport.execute(made).result[0]
    assert "Relay: " in text


def test_models_without_encore_are_measured(pair):
    made = relay(*pair, 0.5, empty())
    (ledger, *_) = reports.find(made["samples"])
    assert ledger.computed == ledger.evaluations == STEPS
    assert ledger.seconds > 0


def test_other_prompts_for_the_second_model(pair):
    plain = relay(*pair, 0.5, empty())
    other = relay(*pair, 0.5, empty(), positive_after=prompt(5, 99))
    same = relay(*pair, 0.5, empty(), positive_after=prompt(5, 11))
    assert torch.equal(plain["samples"], same["samples"])
    assert not torch.equal(plain["samples"], other["samples"])


def test_models_of_other_latents_are_refused(pair):
    leg = [Leg(model, prompt(5, 11), prompt(5, 12), 1.0) for model in (pair[0], make("wan"))]
    with pytest.raises(CacheError, match="one latent space"):
        run(leg[0], leg[1], Course(0, 4, "euler", "simple", 0.5), empty())
