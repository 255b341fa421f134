"""diffusers' caches beside ours on one network of theirs: the same decisions and results, and each difference shown."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from oracles.loops import letters
from pack.cache_core import Case, Probe, Recipe, Run, Schedule, Site
from pack.cache_core import published as p
from pack.cache_core.policies import Mask
from pack.cache_core.predictors import Taylor
from pack.cache_core.predictors.axis import Axis
from pack.cache_core.tables import FLUX_MAGNITUDE, Curve

pytest.importorskip("diffusers", reason="diffusers is a tool of these tests alone: ./encore test installs it")

from diffusers import FluxTransformer2DModel
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

TEXT, PICTURE = 5, 16  # tokens
STEPS = 28
MAGNITUDE = Curve("test", "none", "none", 1.0, FLUX_MAGNITUDE.ratios, 0.24, 5, 0.1)  # without a step that is always computed


@pytest.fixture(scope="module")
def network():
    """Their Flux, tiny, with random weights."""
    torch.manual_seed(0)
    tiny = {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}
    return FluxTransformer2DModel(in_channels=8, joint_attention_dim=12, pooled_projection_dim=8, **tiny).eval()


def schedule(steps=STEPS):
    return Schedule(tuple(1 - n / steps for n in range(steps + 1)))


def calls(steps=STEPS, wobble=0.0):
    """What a solver shows the network on a smooth way: (sigma, picture, text) for each evaluation."""
    torch.manual_seed(1)
    a, b = torch.randn(2, 1, PICTURE, 8)
    text = torch.randn(1, TEXT, 12)
    return [(s, a + s * b + wobble * math.sin(9 * s) * b.flip(1), text) for s in schedule(steps).sigmas[:-1]]


@torch.inference_mode()
def evaluate(network, sigma, picture, text):
    ids = torch.zeros(PICTURE, 3)
    ids[:, 1:] = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).view(-1, 2)
    more = {"pooled_projections": torch.ones(1, 8), "img_ids": ids, "txt_ids": torch.zeros(TEXT, 3), "return_dict": False}
    return network(hidden_states=picture, encoder_hidden_states=text, timestep=torch.tensor([sigma]), **more)[0]


class Counted:
    """How often the second block's attention really ran."""

    def __init__(self, network):
        self.count = 0
        network.transformer_blocks[1].attn.register_forward_hook(self)

    def __call__(self, *_):
        self.count += 1


def theirs(network, config, shown):
    """Outputs of their hook, and what it did."""
    network = copy.deepcopy(network)
    counted, outputs, done = Counted(network), [], []
    network.enable_cache(config)
    with network.cache_context("cond"):
        for call in shown:
            before = counted.count
            outputs.append(evaluate(network, *call))
            done.append(counted.count == before)
    return outputs, letters(done)


class OurStack:
    """Our recipe on their blocks, which all take and give picture and text: by hand what our adapter does in ComfyUI."""

    def __init__(self, network, recipe, steps):
        self.network, self.run = copy.deepcopy(network), Run(recipe, schedule(steps))
        self.recipe, self.forecast = recipe, None
        blocks = [*self.network.transformer_blocks, *self.network.single_transformer_blocks]
        for n, block in enumerate(blocks):
            block.forward = self.patched(n, len(blocks) - 1, block.forward)

    def patched(self, n, last, original):
        def forward(hidden_states, encoder_hidden_states, **more):
            tokens = torch.cat([encoder_hidden_states, hidden_states], 1)
            if n == 0:
                self.first = tokens
            if n == self.recipe.head:
                self.decide(tokens)
            if self.forecast is not None and n >= self.recipe.head:
                return self.forecast.split([TEXT, PICTURE], 1) if n == last else (encoder_hidden_states, hidden_states)
            out = original(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **more)
            if n == last:
                self.run.record(self.case, torch.cat(out, 1))
            return out

        return forward

    def decide(self, tokens):
        probe = (tokens - self.first)[:, TEXT:] if self.recipe.policy.probe is Probe.FIRST_BLOCK else None
        self.case = Case(0, tokens, probe, picture=tokens[:, TEXT:])
        self.forecast = self.run.reuse(self.case) if self.run.decide([self.case]) else None

    def __call__(self, shown: Sequence):
        outputs = []
        for sigma, picture, text in shown:
            self.run.begin(sigma, picture)
            outputs.append(evaluate(self.network, sigma, picture, text))
            self.run.end()
        return outputs, letters(not entry.computed for entry in self.run.ledger.entries)


def our_output(network, recipe, shown):
    """Our recipe around the whole network."""
    run, outputs = Run(recipe, schedule(len(shown))), []
    for sigma, picture, text in shown:
        run.begin(sigma, picture)
        case = Case(0, picture)
        if run.decide([case]):
            outputs.append(run.reuse(case))
        else:
            outputs.append(evaluate(network, sigma, picture, text))
            run.record(case, outputs[-1])
        run.end()
    return outputs, letters(not entry.computed for entry in run.ledger.entries)


def assert_same(found, expected):
    assert found[1] == expected[1]
    for ours, rival in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(ours, rival, rtol=1e-4, atol=1e-5)


class TestFirstBlockCache:
    def test_ours_decides_and_answers_as_theirs(self, network):
        traces = set()
        for threshold in (0.1, 0.15, 0.25, 0.4, 0.6):
            expected = theirs(network, FirstBlockCacheConfig(threshold), calls(wobble=0.3))
            assert_same(OurStack(network, p.first_block_cache(threshold), STEPS)(calls(wobble=0.3)), expected)
            traces.add(expected[1])
        assert len({trace for trace in traces if 4 <= trace.count("r") <= 24}) >= 2, traces

    def test_of_a_change_of_the_text_only_what_it_does_to_the_picture_counts_as_with_theirs(self, network):
        sigma, picture, text = calls()[0]
        shown = [(sigma, picture, text), (sigma - 1 / STEPS, picture, text.roll(1, 1))]
        traces = [(theirs(network, FirstBlockCacheConfig(t), shown)[1], t) for t in (0.001 * 1.1**k for k in range(99))]
        rival = next(t for trace, t in traces if trace == "Cr")
        assert OurStack(network, p.first_block_cache(rival), STEPS)(shown)[1] == "Cr"
        assert OurStack(network, p.first_block_cache(rival / 1.1), STEPS)(shown)[1] == "CC"

    def test_what_is_not_a_number_is_computed_where_theirs_reuses(self, network):
        first, second, third = calls(3)
        shown = [first, (second[0], second[1] * math.nan, second[2]), third]
        assert theirs(network, FirstBlockCacheConfig(0.01), shown)[1][1] == "r"
        assert OurStack(network, p.first_block_cache(0.01), 3)(shown)[1][1] == "C"

    def test_a_threshold_of_zero_computes_all_where_theirs_reuses_what_stands_still(self, network):
        shown = [calls()[0]] * 4
        assert theirs(network, FirstBlockCacheConfig(0.0), shown)[1] == "Crrr"
        assert OurStack(network, p.first_block_cache(0.0), STEPS)(shown)[1] == "CCCC"


class TestMagCache:
    @pytest.mark.parametrize("steps", [28, 20, 10])
    @pytest.mark.parametrize(("threshold", "longest"), [(0.24, 5), (0.06, 3), (0.5, 2)])
    def test_ours_decides_and_answers_as_theirs(self, network, steps, threshold, longest):
        config = MagCacheConfig(threshold, longest, 0.1, steps, mag_ratios=list(MAGNITUDE.ratios))
        expected = theirs(network, config, calls(steps))
        found = OurStack(network, p.magcache(threshold, longest, 0.1, (MAGNITUDE,)), steps)(calls(steps))
        assert_same(found, expected)
        assert {"C", "r"} == set(found[1])

    def test_the_step_that_the_authors_never_reuse_at_is_computed_where_theirs_reuses(self, network):
        config = MagCacheConfig(9.0, 99, 0.1, STEPS, mag_ratios=list(FLUX_MAGNITUDE.ratios))
        assert theirs(network, config, calls())[1] == "CCC" + "r" * 25
        assert OurStack(network, p.magcache(9.0, 99), STEPS)(calls())[1] == "CCC" + "r" * 8 + "C" + "r" * 16

    def test_steps_are_told_by_noise_level_where_theirs_counts_calls(self, network):
        """A solver of two evaluations a step: their count comes to the curve's calm end when half of the steps are left."""
        curve = Curve("test", "none", "none", 1.0, (1.5,) * 5 + (1.0,) * 5, 0.1, 99, 0.1)
        levels = [sigma for pair in zip(schedule(10).sigmas, schedule(10).sigmas[1:], strict=False) for sigma in pair][:-1]
        shown = [(sigma, *calls(10)[0][1:]) for sigma in levels]
        rival = theirs(network, MagCacheConfig(0.1, 99, 0.1, 10, mag_ratios=list(curve.ratios)), shown)[1]
        mine = OurStack(network, p.magcache(0.1, 99, 0.1, (curve,)), 10)(shown)[1]
        assert "r" in rival[:9], "steps 0 to 4, of which the curve says that nothing can be reused"
        assert mine == "C" * 9 + "r" * 10

    @pytest.mark.parametrize(("share", "first"), [(0.2, 2), (0.21, 3), (0.13, 2), (0.12, 1)])
    def test_a_share_retained_is_rounded_as_theirs(self, network, share, first):
        config = MagCacheConfig(9.0, 99, share, 12, mag_ratios=list(MAGNITUDE.ratios))
        assert theirs(network, config, calls(12))[1].index("r") == first
        assert OurStack(network, p.magcache(9.0, 99, share, (MAGNITUDE,)), 12)(calls(12))[1].index("r") == first


class TestTaylorSeer:
    @staticmethod
    def config(interval, order, warmup=3, dtype=torch.float32):
        return TaylorSeerCacheConfig(interval, warmup, max_order=order, taylor_factors_dtype=dtype, use_lite_mode=True)

    @pytest.mark.parametrize("order", [0, 1, 2])
    @pytest.mark.parametrize("interval", [3, 5])
    def test_computed_at_the_same_steps_ours_forecasts_as_theirs(self, network, interval, order):
        expected = theirs(network, self.config(interval, order), calls(wobble=0.3))
        computed = frozenset(n for n, done in enumerate(expected[1]) if done == "C")
        recipe = Recipe(Mask(computed, STEPS), Taylor(order, Axis.STEP), Site.GUIDED)
        assert_same(our_output(network, recipe, calls(wobble=0.3)), expected)
        assert {"C", "r"} == set(expected[1])

    def test_at_every_second_step_both_compute_at_the_same(self, network):
        expected = theirs(network, self.config(2, 1), calls())
        assert expected[1].startswith("CCCrCrCr")
        assert OurStack(network, p.taylorseer(2, 1), STEPS)(calls())[1] == expected[1]

    def test_after_the_warm_up_a_whole_interval_is_forecast_where_theirs_computes_again_one_step_later(self, network):
        assert theirs(network, self.config(5, 1), calls())[1].startswith("CCCrCrrrrC")
        assert OurStack(network, p.taylorseer(5, 1), STEPS)(calls())[1].startswith("CCCrrrrCrrrrC")

    def test_the_present_noise_level_modulates_the_last_layer_where_theirs_forecasts_what_that_gave(self, network):
        """Tokens that stand still after the blocks: ours is exact, theirs has the last layer of an older step."""
        still = copy.deepcopy(network)
        for block in (*still.transformer_blocks, *still.single_transformer_blocks):
            for parameter in block.parameters():
                parameter.data.zero_()
        shown = [(sigma, *calls()[0][1:]) for sigma, _, _ in calls()]
        truth = [evaluate(still, *call) for call in shown]
        mine = OurStack(still, p.taylorseer(5, 0), STEPS)(shown)[0]
        rival = theirs(still, self.config(5, 0), shown)[0]
        assert max((a - b).abs().max() for a, b in zip(mine, truth, strict=True)) < 1e-5
        assert max((a - b).abs().max() for a, b in zip(rival, truth, strict=True)) > 1e-2

    def test_anchors_are_kept_as_they_come_where_theirs_are_cut_to_bfloat16_by_default(self, network):
        exact, rounded = (theirs(network, self.config(5, 2, dtype=dtype), calls())[0] for dtype in (torch.float32, torch.bfloat16))
        assert max((a - b).norm() / a.norm() for a, b in zip(exact, rounded, strict=True)) > 1e-3
