"""The published methods for parts of blocks, spans and the negative prompt: what they compute, and what they answer instead."""

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host_models import BlockCalls, newest, prompt, sample
from pack.cache_core import Branch, History, Observation, Place, Placement, Recipe, Schedule, Site, Step, Target, tables
from pack.cache_core import published as p
from pack.cache_core.policies import Interval, Mask, Never
from pack.cache_core.predictors import GuidanceBands, Hold
from pack.nodes.adapters import host
from test_branches import Forwards

pytestmark = pytest.mark.host
MASK = frozenset({0, 1, 4, 7})
POLYNOMIALS = [value for value in vars(tables).values() if isinstance(value, tables.Polynomial)]


def uncond(policy, predictor=None):
    return Recipe(policy, predictor or Hold(), Site.UNCOND, Target.RESIDUAL)


class TestTheNegativePrompt:
    @pytest.mark.parametrize("negative", [5, 7])
    def test_never_leaving_it_out_is_bit_identical(self, model, family, negative):
        plain = sample(model, family, cfg=3.0, negative_tokens=negative)
        found = sample(host.attach(model, uncond(Never())), family, cfg=3.0, negative_tokens=negative)
        assert torch.equal(plain, found)

    @pytest.mark.parametrize(("negative", "calls"), [(5, 8), (7, 12)], ids=["batched", "split"])
    def test_its_rows_are_computed_by_the_mask_and_the_positive_ones_always(self, model, family, negative, calls):
        with BlockCalls(model) as counted:
            latent = sample(host.attach(model, uncond(Mask(MASK, 8))), family, cfg=3.0, negative_tokens=negative)
        assert counted.evaluations == {calls}
        assert set(counted.rows.values()) == {8 + 4}
        macs = [entry.macs for entry in newest(latent).entries]
        assert all(0 < macs[n] < macs[0] for n in range(8) if n not in MASK)
        assert [entry.computed for entry in newest(latent).entries] == [n in MASK for n in range(8)]

    def test_it_is_the_positive_one_and_the_difference_held(self, model, family):
        """Euler by hand: v = v_c + (w - 1) (v_c - v_u), where v_u - v_c is that of the last step in the mask."""
        kept, state = {}, {"n": -1}

        def guided(args):
            x, sigma = args["input"], args["sigma"].reshape(-1, *[1] * (args["input"].ndim - 1))
            cond, negative = (args[name] / sigma for name in ("cond", "uncond"))  # both are x - denoised, so these are velocities
            state["n"] += 1
            if state["n"] in MASK:
                kept["gap"] = negative - cond
            assert x.shape == cond.shape
            return (cond - 2.0 * kept["gap"]) * sigma

        by_hand = model.clone()
        by_hand.set_model_sampler_cfg_function(guided)
        expected = sample(by_hand, family, cfg=3.0)
        found = sample(host.attach(model, uncond(Mask(MASK, 8))), family, cfg=3.0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, sample(model, family, cfg=3.0), rtol=1e-3)

    def test_without_cfg_there_is_nothing_to_leave_out_and_the_report_says_so(self, model, family):
        latent = sample(host.attach(model, uncond(Mask(MASK, 8))), family, cfg=1.0)
        assert torch.equal(latent, sample(model, family, cfg=1.0))
        assert "There is no negative prompt to leave out: CFG is 1.0." in newest(latent).notes

    def test_a_condition_of_its_own_that_begins_in_mid_run_is_computed_when_it_begins(self, model, family):
        late = prompt(5, 11) + prompt(5, 13, start_percent=0.5, end_percent=1.0)
        entries = newest(sample(host.attach(model, uncond(Mask(frozenset({0, 1}), 8))), family, cfg=3.0, positive=late)).entries
        begins = model.get_model_object("model_sampling").percent_to_sigma(0.5)
        assert [entry.step for entry in entries if entry.computed] == [0, 1, next(e.step for e in entries if e.sigma <= begins)]

    def test_an_output_of_one_condition_that_a_guidance_method_asks_for_is_left_alone(self, model, family):
        asked = []

        def perturbed(executor, model, conds, x, timestep, options):
            asked.append(len(conds))
            return executor(model, conds, x, timestep, options)

        def extra(args):
            comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"])
            return args["denoised"]

        other = model.clone()
        other.set_model_sampler_post_cfg_function(extra)
        other.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "spy", perturbed)
        with_it = sample(host.attach(other, uncond(Mask(MASK, 8))), family, cfg=3.0)
        assert asked == [2, 1] * 8
        assert torch.equal(with_it, sample(host.attach(model, uncond(Mask(MASK, 8))), family, cfg=3.0))


class TestGuidanceBands:
    SCHEDULE = Schedule((1.0, 0.95, 0.7, 0.5, 0.25, 0.2, 0.05, 0.0))

    def forecast(self, anchor, now, gap, **settings):
        history = History(1, Placement())
        history.push(self.SCHEDULE.sigmas[anchor], gap)
        seen = Observation(Step(self.SCHEDULE, self.SCHEDULE.sigmas[now], now), None, 0, 1)
        return GuidanceBands(**settings).predict(history, seen, torch.zeros_like(gap))

    def by_the_paper(self, anchor, now, gap):
        """Eq. 9 to 11 with the whole FFT, centred, frame by frame; each reused step multiplies what the one before it left."""
        height, width = gap.shape[-2:]
        frames = torch.fft.fftshift(torch.fft.fft2(gap), dim=(-2, -1))
        rows, columns = torch.arange(height)[:, None] - height // 2, torch.arange(width)[None] - width // 2
        low = (rows**2 + columns**2) <= (min(height, width) // 5) ** 2
        coarse, fine = frames * low, frames * ~low
        for step in range(anchor + 1, now + 1):
            timestep = 1000 * self.SCHEDULE.sigmas[step]
            coarse = coarse * (1.1 if 99 < timestep < 901 else 1.0)
            fine = fine * (1.1 if -1 < timestep < 301 else 1.0)
        return torch.fft.ifft2(torch.fft.ifftshift(coarse + fine, dim=(-2, -1))).real

    @pytest.mark.parametrize("shape", [(2, 16, 8, 8), (1, 4, 3, 12, 20), (1, 2, 11, 7)])
    @pytest.mark.parametrize(("anchor", "now"), [(0, 1), (0, 2), (1, 3), (2, 5), (3, 6), (0, 6)])
    def test_bands_grow_as_the_paper_says(self, shape, anchor, now):
        gap = torch.randn(shape, generator=torch.Generator().manual_seed(now))
        torch.testing.assert_close(self.forecast(anchor, now, gap), self.by_the_paper(anchor, now, gap), rtol=1e-4, atol=1e-5)

    def test_factors_of_one_hold_the_difference(self):
        gap = torch.randn(1, 4, 8, 8)
        torch.testing.assert_close(self.forecast(0, 6, gap, low=1.0, high=1.0), gap)


def computed(policy, steps, place=None):
    """C or r for each step of a schedule whose noise falls evenly."""
    schedule, state, age, trace = Schedule(tuple(1 - n / steps for n in range(steps + 1))), policy.init(), 0, ""
    for n in range(steps):
        seen = Observation(Step(schedule, schedule.sigmas[n], n), None, age, len(trace) - trace.count("r"), place=place)
        verdict, state = policy.propose(state, seen)
        reuse = verdict.reuse and n > 0
        state = policy.settle(state, seen, None if reuse else torch.zeros(1))
        trace, age = trace + ("r" if reuse else "C"), age + 1 if reuse else 0
    return trace


class TestPublished:
    def test_fora_taylorseer_and_hicache_stand_at_every_branch(self):
        for recipe, source in (
            (p.fora_branches(), "2407.01425"),
            (p.taylorseer_branches(), "2503.06923"),
            (p.hicache_branches(), "2508.16984"),
        ):
            assert (recipe.site, recipe.branches, recipe.target) == (Site.BRANCH, frozenset(Branch), Target.OUTPUT)
            assert source in recipe.source
        assert computed(p.fora_branches(3).policy, 9) == "CrrCrrCrr"
        assert computed(p.taylorseer_branches(4, 2, 3).policy, 12) == "CCCrrrCrrrCr"

    def test_pab_has_its_ranges_in_the_middle_of_the_steps(self):
        policy = p.pab(2, 6, 3).policy
        assert computed(policy, 20, Place(0, Branch.ATTENTION)) == "CCCrCrCrCrCrCrCrCCCC"
        assert computed(policy, 20, Place(0, Branch.CROSS)) == "CCCrrrrrCrrrrrCrrCCC"
        assert computed(policy, 20, Place(0, Branch.MLP)) == "CCCrrCrrCrrCrrCrrCCC"
        assert p.pab().branches == frozenset({Branch.ATTENTION, Branch.CROSS})

    def test_pab_skips_wans_self_and_cross_attention_and_no_mlp(self, models, monkeypatch):
        calls = Forwards(models["wan"], "wan", monkeypatch).calls
        sample(host.attach(models["wan"], p.pab()), "wan", steps=20)
        assert calls == {"self_attn": 3 * 13, "cross_attn": 3 * 8, "ffn": 3 * 20}
        for module in models["wan"].model.diffusion_model.modules():
            vars(module).pop("counted", None)

    @pytest.mark.parametrize(
        ("total", "share", "front", "rear"), [(28, 0.75, 21, 21), (57, 0.75, 43, 43), (6, 0.5, 3, 3), (10, 0.2, 2, 2), (4, 1.0, 4, 4)]
    )
    def test_delta_dit_reuses_the_rear_blocks_first_and_the_front_blocks_then(self, total, share, front, rear):
        recipe = p.delta_dit(total, 2, share, 0.6)
        early, late = set(), set()
        for index, span in enumerate(recipe.cached(total)):
            trace = computed(recipe.policy, 20, Place(index))
            early |= set(span) if "r" in trace[:12] else set()
            late |= set(span) if "r" in trace[12:] else set()
        assert early == set(range(total - rear, total))
        assert late == set(range(front))

    def test_delta_dit_leaves_out_three_blocks_in_four_at_every_second_step(self, models):
        recipe = p.delta_dit(3, 2, 0.67, 0.5)
        with BlockCalls(models["wan"]) as counted:
            sample(host.attach(models["wan"], recipe), "wan", steps=8)
        assert [counted.calls[f"blocks.{n}"] for n in range(3)] == [6, 4, 6]

    @pytest.mark.parametrize("table", POLYNOMIALS, ids=lambda table: table.name)
    def test_teacache_at_threshold_zero_is_bit_identical_even_where_its_polynomial_is_negative(self, models, table):
        family = "flux" if table is tables.FLUX_CHANGE else "wan"
        latent = sample(host.attach(models[family], p.teacache(0.0, table)), family, cfg=3.0, steps=10)
        assert torch.equal(latent, sample(models[family], family, cfg=3.0, steps=10))
        assert newest(latent).computed == 10

    def test_cfg_cache_computes_the_negative_prompt_once_in_five_below_its_noise_level(self):
        recipe = p.cfg_cache()
        assert recipe.predictor == GuidanceBands(1.1, 1.1, (99, 901), (-1, 301))
        assert computed(recipe.policy, 20) == "CCCCCCCC" + "rrrrCrrrrCrr"

    def test_taylorseer_is_the_series_of_each_branch_over_steps(self, models):
        """Order 1 by hand on nine modules: F_a + k (F_a - F_b) / (a - b), k steps after the newest computed step a; a - b is 1, then 3."""
        model, step, kept = models["wan"], {"n": -1}, {}

        def laid(module, name):
            inner = module.forward

            def forward(*args, **kwargs):
                if step["n"] in (0, 1, 4, 7):
                    kept[name] = [*kept.get(name, []), (step["n"], inner(*args, **kwargs).clone())][-2:]
                    return kept[name][-1][1]
                (b, before), (a, newest) = kept[name]
                return newest + (step["n"] - a) * (newest - before) / (a - b)

            return forward

        def count(args, extra):
            step["n"] += 1
            return extra["original_block"](args)

        by_hand = model.clone()
        by_hand.set_model_patch_replace(count, "dit", "double_block", 0)
        parts = {name: part for name, part in model.model.diffusion_model.named_modules() if name.endswith(("_attn", "ffn"))}
        for name, part in parts.items():
            vars(part)["forward"] = laid(part, name)
        expected = sample(by_hand, "wan")
        for part in parts.values():
            del vars(part)["forward"]
        found = sample(host.attach(model, p.taylorseer_branches(3, 1, 2)), "wan")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, sample(host.attach(model, p.fora_branches(3, 2)), "wan"), rtol=1e-3)


def test_interval_of_one_leaves_a_branch_alone():
    assert computed(Interval(1), 5) == "CCCCC"
