"""A recipe on a real ComfyUI model: what is computed, what stays the same, and what is left behind."""

import gc
import weakref

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host_models import BLOCKS, LATENT, BlockCalls, make, prompt, sample
from pack.cache_core import Site
from pack.cache_core.published import encore, masked, measure
from pack.nodes import report
from pack.nodes.adapters import host, reports
from pack.nodes.adapters.families import family_of

pytestmark = pytest.mark.host
FAMILIES = ["flux", "wan"]
SITES = [Site.GUIDED, Site.COND]
MASK = frozenset({0, 1, 4, 7})


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=SITES, ids=lambda site: site.value)
def site(request):
    return request.param


def ledger(latent):
    return reports.find(latent)[0]


class TestNothingIsChanged:
    @pytest.mark.parametrize("cfg", [1.0, 3.0])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_speed_one_is_bit_identical_to_no_node(self, model, family, site, cfg, batch):
        plain = sample(model, family, cfg=cfg, batch=batch)
        cached = sample(host.attach(model, encore(1.0, family, site)), family, cfg=cfg, batch=batch)
        assert torch.equal(plain, cached)

    def test_measure_is_bit_identical_to_no_node(self, model, family):
        assert torch.equal(sample(model, family, cfg=3.0), sample(host.attach(model, measure()), family, cfg=3.0))

    def test_bypass_is_bit_identical_the_model_given_is_left_as_it_was(self, model, family):
        plain = sample(model, family)
        cached = host.attach(model, masked(MASK, 8))
        sample(cached, family)
        assert torch.equal(plain, sample(model, family))
        assert not any(host.options.KEY in kinds for kinds in model.wrappers.values())

    def test_a_speed_really_changes_the_result_a_little(self, model, family):
        plain, cached = sample(model, family), sample(host.attach(model, masked(MASK, 8)), family)
        assert 0 < (plain - cached).norm() / plain.norm() < 0.5


class TestWhatIsComputed:
    @pytest.mark.parametrize(
        ("cfg", "negative_tokens", "calls", "rows"),
        [(1.0, 5, 4, 4), (3.0, 5, 4, 8), (3.0, 7, 8, 8)],
        ids=["no CFG", "cond and uncond batched", "cond and uncond split"],
    )
    def test_a_mask_gives_exactly_its_number_of_block_calls(self, model, family, site, cfg, negative_tokens, calls, rows):
        cached = host.attach(model, masked(MASK, 8, site=site))
        with BlockCalls(model) as counted:
            sample(cached, family, cfg=cfg, negative_tokens=negative_tokens)
        assert len(counted.calls) == BLOCKS[family]
        assert counted.evaluations == {calls}
        assert set(counted.rows.values()) == {rows}

    def test_both_sites_forecast_the_same_where_guidance_is_linear(self, model, family):
        guided, cond = (sample(host.attach(model, masked(MASK, 8, site=site)), family, cfg=3.0) for site in SITES)
        torch.testing.assert_close(guided, cond, rtol=1e-3, atol=1e-4)

    def test_batched_and_split_conditions_give_the_same_picture(self, model, family, site, monkeypatch):
        cached = host.attach(model, masked(MASK, 8, site=site))
        batched = sample(cached, family, cfg=3.0)
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _=None, both=False: (0, 0) if both else 0)
        with BlockCalls(model) as counted:
            split = sample(cached, family, cfg=3.0)
        assert counted.evaluations == {8}
        torch.testing.assert_close(batched, split, rtol=1e-3, atol=1e-4)

    def test_forecasts_equal_a_plain_loop_of_order_one(self, model, family):
        """Euler by hand on the uncached model, order-1 forecast of the velocity on the true sigmas."""

        def loop(predict, x, sigmas, extra_args=None, callback=None, disable=None):
            anchors = []
            for n, (now, after) in enumerate(zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False)):
                if n in MASK:
                    v = (x - predict(x, sigmas[n] * x.new_ones([len(x)]), **extra_args)) / now
                    anchors = [*anchors, (now, v)][-2:]
                elif len(anchors) == 2:
                    (s0, v0), (s1, v1) = anchors
                    v = v1 + (now - s1) / (s1 - s0) * (v1 - v0)
                x = x + (after - now) * v
            return x

        expected = sample(model, family, cfg=3.0, sampler=comfy.samplers.KSAMPLER(loop))
        found = sample(host.attach(model, masked(MASK, 8)), family, cfg=3.0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_a_sampler_of_two_evaluations_a_step_is_counted_by_evaluation(self, model, family, site):
        cached = host.attach(model, masked(frozenset({0, 1, 4}), 5, site=site))
        with BlockCalls(model) as counted:
            latent = sample(cached, family, steps=5, sampler="heun")
        assert ledger(latent).evaluations == 9
        assert counted.evaluations == {ledger(latent).computed}
        assert {e.step for e in ledger(latent).entries if not e.computed} == {2, 3}
        assert torch.isfinite(latent).all()

    @pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc", "res_multistep", "euler_ancestral", "dpm_2", "lcm"])
    def test_other_samplers_run(self, models, sampler):
        latent = sample(host.attach(models["flux"], encore(2.0)), "flux", steps=12, sampler=sampler)
        assert torch.isfinite(latent).all()
        assert ledger(latent).reused > 0

    def test_a_part_of_the_schedule_is_enough(self, model, family):
        latent = sample(host.attach(model, encore(2.0, family)), family, steps=10, denoise=0.6)
        assert ledger(latent).evaluations == 10
        assert ledger(latent).computed == 5

    def test_few_steps_are_computed_and_the_reason_is_given(self, model, family):
        plain, cached = sample(model, family, steps=4), sample(host.attach(model, encore(3.0, family)), family, steps=4)
        assert torch.equal(plain, cached)
        assert "too few" in ledger(cached).entries[-1].reason

    def test_a_condition_that_begins_in_mid_run_is_computed_when_it_begins(self, model, family, site):
        late = prompt(5, 11) + prompt(5, 13, start_percent=0.5, end_percent=1.0)
        cached = host.attach(model, masked(frozenset({0, 1}), 8, site=site))
        latent = sample(cached, family, positive=late)
        begins = model.get_model_object("model_sampling").percent_to_sigma(0.5)
        entries = ledger(latent).entries
        first = next(entry.step for entry in entries if entry.sigma <= begins)
        assert [entry.step for entry in entries if entry.computed] == [0, 1, first]
        with BlockCalls(model) as counted:
            sample(cached, family, positive=late)
        assert sum(counted.rows.values()) / BLOCKS[family] == 2 + 2


class TestWhereItCannotHelp:
    def test_another_cache_on_the_model_stops_ours_and_is_named(self, model, family):
        plain = sample(model, family)
        cached = host.attach(model, encore(2.0, family))
        cached.model_options["transformer_options"]["easycache"] = object()
        latent = sample(cached, family)
        assert ledger(latent).reused == 0
        assert "easycache" in ledger(latent).notes[0]
        assert torch.equal(plain, latent)

    def test_sigmas_that_rise_are_computed_with_the_reason(self, model, family):
        latent = sample(host.attach(model, encore(2.0, family)), family, sigmas=torch.linspace(0.1, 0.9, 7))
        assert ledger(latent).reused == 0
        assert "never rise" in ledger(latent).notes[0]


class TestNothingIsLeftBehind:
    def test_two_runs_in_a_row_are_the_same(self, model, family, site):
        cached = host.attach(model, masked(MASK, 8, site=site))
        assert torch.equal(sample(cached, family, cfg=3.0), sample(cached, family, cfg=3.0))

    def test_another_size_batch_and_sampler_in_between_change_nothing(self, model, family, site):
        cached = host.attach(model, masked(MASK, 8, site=site))
        first = sample(cached, family)
        sample(cached, family, batch=2)
        sample(cached, family, shape=(*LATENT[family][:-2], 4, 12))
        sample(cached, family, sampler="dpmpp_2m")
        assert torch.equal(first, sample(cached, family))

    def test_a_clone_samples_alike_and_neither_disturbs_the_other(self, model, family):
        cached = host.attach(model, masked(MASK, 8))
        first, clone = sample(cached, family), cached.clone()
        assert torch.equal(first, sample(clone, family))
        assert torch.equal(first, sample(cached, family))

    def test_the_last_of_two_caches_on_a_model_counts(self, model, family):
        twice = host.attach(host.attach(model, masked(frozenset({0}), 8)), masked(MASK, 8))
        assert torch.equal(sample(twice, family), sample(host.attach(model, masked(MASK, 8)), family))
        assert all(len(kinds[host.options.KEY]) == 1 for kinds in twice.wrappers.values() if kinds)

    def test_a_run_cancelled_half_way_leaves_no_trace(self, model, family, site):
        ledgers = []
        cached = host.attach(model, masked(MASK, 8, site=site), ledgers.append)
        first = sample(cached, family)

        def cancel(step, *_):
            if step == 3:
                raise comfy.model_management.InterruptProcessingException

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(cached, family, callback=cancel)
        assert [found.evaluations for found in ledgers] == [8, 4]
        assert torch.equal(first, sample(cached, family))

    def test_the_run_is_gone_when_the_sampling_is_over(self, model, family, monkeypatch):
        runs = []

        class Watched(host.Run):
            def __init__(self, *args):
                super().__init__(*args)
                runs.append(weakref.ref(self))

        monkeypatch.setattr(host, "Run", Watched)
        attributes = {name: set(vars(part)) for name, part in model.model.diffusion_model.named_modules()}
        sample(host.attach(model, masked(MASK, 8)), family)
        gc.collect()
        assert runs
        assert all(run() is None for run in runs)
        assert attributes == {name: set(vars(part)) for name, part in model.model.diffusion_model.named_modules()}

    def test_the_input_of_the_solver_is_not_written_to(self, model, family, site):
        seen = []

        def spy(executor, x, *args, **kwargs):
            before = x.clone()
            result = executor(x, *args, **kwargs)
            seen.append(torch.equal(before, x))
            return result

        watched = model.clone()
        watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", spy)
        sample(host.attach(watched, masked(MASK, 8, site=site)), family)
        assert len(seen) == 8
        assert all(seen)


class TestTheLedger:
    def test_its_sums_add_up(self, model, family, site):
        found = ledger(sample(host.attach(model, masked(MASK, 8, site=site)), family, cfg=3.0))
        full = [entry.macs for entry in found.entries if entry.computed]
        assert (found.evaluations, found.computed, found.reused, found.steps) == (8, 4, 4, 8)
        assert len(set(full)) == 1
        assert [entry.macs for entry in found.entries if not entry.computed] == [0] * 4
        assert found.macs == sum(full)
        assert found.macs_if_computed == 8 * full[0]
        assert 0 < sum(entry.seconds for entry in found.entries) <= found.seconds
        assert found.sampler == "euler"

    def test_macs_are_those_of_the_linear_layers_and_of_attention(self, models):
        counted, hooks = [0], []
        network = models["flux"].model.diffusion_model

        def hook(module, args, output):
            counted[0] += args[0].numel() // args[0].shape[-1] * module.weight.numel()

        for part in network.modules():
            if isinstance(part, torch.nn.Linear):
                hooks.append(part.register_forward_hook(hook))
        found = ledger(sample(host.attach(models["flux"], measure()), "flux", steps=2))
        for each in hooks:
            each.remove()
        tokens, width = 16 + 5, 128
        assert found.macs == counted[0] + 2 * BLOCKS["flux"] * 2 * tokens * tokens * width

    def test_a_latent_that_nobody_sampled_has_no_ledger(self):
        assert not reports.find(torch.randn(1, 2))


def test_a_report_tells_two_branches_apart_that_returned_the_same_latent(model, family):
    plain = sample(host.attach(model, measure()), family, steps=3)
    cached = sample(host.attach(model, encore(2.0, family)), family, steps=3)
    sample(host.attach(model, measure()), family, steps=3)
    assert torch.equal(plain, cached)
    run, baseline = report._pair({"samples": cached}, {"samples": plain})
    assert (run.recipe, baseline.recipe) == ("Encore 2x", "Encore Measure")
    assert "too few" in run.notes[0]


def test_families_are_told_apart(models):
    assert [family_of(models[family]) for family in FAMILIES] == FAMILIES
