"""The methods for blocks, branches and the negative prompt on the demo models: what they sample is what plain loops sample."""

from functools import partial
from statistics import median

import pytest
import torch
from oracles import loops
from oracles.by_hand import ByHand
from oracles.trajectory import CFG, load, sample
from pack.cache_core import Recipe, Site, Target
from pack.cache_core import published as p
from pack.cache_core.policies import Change, Interval, PerPlace
from pack.cache_core.predictors import Axis, Hold, Lagrange, Taylor
from pack.nodes.adapters import host, reports

STEPS, NEVER = 8, 1e9
KINDS = {"flux": ("attention", "mlp", "both"), "wan": ("attention", "cross", "mlp")}


@pytest.fixture(scope="module")
def models():
    return {family: load(family) for family in ("flux", "wan")}


@pytest.fixture(scope="module")
def uncached(models):
    return {family: sample(models[family], family, STEPS) for family in models}


@pytest.fixture
def assert_same(model, family, uncached):
    return partial(same, model, family, uncached[family])


def same(model, family, plain, recipe, by_hand, expected):
    """The picture of the plain loop, and what it computed at each step."""
    latent = sample(host.attach(model, recipe), family, STEPS)
    entries = reports.find(latent)[0].entries
    shares = [sum(by_hand.computed[n]) / len(by_hand.computed[n]) for n in range(STEPS)]
    assert [entry.share for entry in entries] == pytest.approx(shares)
    assert 0 < sum(share < 1 for share in shares) < STEPS, "both must happen, or nothing is proved"
    torch.testing.assert_close(latent, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert (latent - plain).norm() > 20 * (latent - expected).norm(), "nor if the cache makes no difference"


FORECASTS = {
    "FORA": (p.fora_branches(3, 2), 3, 2, loops.hold),
    "TaylorSeer": (p.taylorseer_branches(4, 2, 3), 4, 3, loops.taylor(2)),
    "HiCache": (p.hicache_branches(4, 2, 3), 4, 3, loops.hermite(2, 0.5)),
}


@pytest.mark.parametrize("name", FORECASTS)
def test_every_branch_is_forecast_as_the_papers_say(model, family, name, assert_same):
    recipe, every, warmup, forecast = FORECASTS[name]
    reused = dict.fromkeys(KINDS[family], loops.interval(STEPS, every, warmup)[0])
    with ByHand(model, family, STEPS).branches(reused, forecast) as by_hand:
        expected = by_hand.sample()
    assert_same(recipe, by_hand, expected)


def broadcast(every, start, end):
    """PAB: within the window one computed evaluation, then every - 1 that repeat it."""
    age, reused = 0, []
    for n in range(STEPS):
        reuse = n > 0 and start * STEPS <= n < end * STEPS and age + 1 < every
        age = age + 1 if reuse else 0
        reused.append(reuse)
    return reused


def test_pab_broadcasts_each_kind_of_branch_by_its_range(model, family, assert_same):
    by_hand, own = ByHand(model, family, STEPS), p.pab(2, 5, 1, 0.15, 0.85)
    if family == "flux":
        by_hand.attention_cores(broadcast(2, 0.15, 0.85), loops.hold)
    with by_hand.branches({"attention": broadcast(2, 0.15, 0.85), "cross": broadcast(5, 0.15, 0.85)}, loops.hold):
        expected = by_hand.sample()
    if family == "flux":  # both outputs of a double block's attention are one part of it
        by_hand.computed = {n: each[:2] for n, each in by_hand.computed.items()}
    assert_same(own, by_hand, expected)


BLOCKWISE = {"line": (Lagrange(1), loops.line), "Taylor": (Taylor(2, Axis.STEP), loops.taylor(2))}


@pytest.mark.parametrize("name", BLOCKWISE)
def test_every_block_is_forecast_by_its_own_mask(model, family, name, assert_same):
    """Block Caching's form: a refresh rate for each block, here 2, 3 and 4 in turn."""
    predictor, forecast = BLOCKWISE[name]
    by_hand = ByHand(model, family, STEPS)
    each = [2 + n % 3 for n in range(len(by_hand.keys))]
    lines = [loops.interval(STEPS, every, 0)[0] for every in each]
    by_hand.spans([range(n, n + 1) for n in range(len(each))], lambda n, step: lines[n][step], forecast)
    recipe = Recipe(PerPlace(tuple(map(Interval, each))), predictor, Site.BLOCK, Target.RESIDUAL)
    assert_same(recipe, by_hand, by_hand.sample())


def first_block(model, family, threshold):
    """First-Block Cache block by block, its picture, and the changes it saw."""
    by_hand, kept, reuse, seen = ByHand(model, family, STEPS), {}, {}, []

    def shown(before, after, text):
        call, probes = by_hand.call, (after - before)[:, text:].chunk(len(by_hand.call))
        old = kept.get(call)
        changes = [loops.mean(a - b) / loops.mean(b) for a, b in zip(probes, old, strict=True)] if old else [NEVER]
        reuse[call] = max(changes) < threshold
        seen.append(max(changes))
        if not reuse[call]:
            kept[call] = probes

    blocks = [range(n, n + 1) for n in range(1, len(by_hand.keys))]
    by_hand.spans(blocks, lambda n, step: reuse[by_hand.call], loops.hold, shown)
    return by_hand, by_hand.sample(), seen


def test_every_block_is_decided_by_the_first_ones_change(model, family, assert_same):
    threshold = 1.5 * median(first_block(model, family, 0.0)[2])
    by_hand, expected, _ = first_block(model, family, threshold)
    assert_same(Recipe(Change(threshold), Hold(), Site.BLOCK, Target.RESIDUAL, head=1), by_hand, expected)


def test_delta_dit_holds_what_rear_blocks_add_early_and_front_blocks_late(model, family, assert_same):
    by_hand = ByHand(model, family, STEPS)
    total = len(by_hand.keys)
    count = round(0.75 * total)
    early, late = broadcast(2, 0.0, 0.6), broadcast(2, 0.6, 1.0)
    parts = {"front": range(total - count), "both": range(total - count, count), "rear": range(count, total)}
    lines = {"front": late, "both": loops.interval(STEPS, 2, 0)[0], "rear": early}
    by_hand.spans(list(parts.values()), lambda n, step: list(lines.values())[n][step], loops.hold)
    assert_same(p.delta_dit(total, 2, 0.75, 0.6), by_hand, by_hand.sample())


def guidance_bands(gap, factors):
    """FasterCache, eq. 9 to 11: the spectrum of each frame, centred; `factors` of the low waves and the high ones."""
    height, width = gap.shape[-2:]
    frames = torch.fft.fftshift(torch.fft.fft2(gap), dim=(-2, -1))
    rows, columns = torch.arange(height)[:, None] - height // 2, torch.arange(width)[None] - width // 2
    low = rows**2 + columns**2 <= (min(height, width) // 5) ** 2
    return torch.fft.ifft2(torch.fft.ifftshift(torch.where(low, factors[0], factors[1]) * frames, dim=(-2, -1))).real


def test_cfg_cache_rebuilds_the_negative_prompt(models, uncached):
    """Euler by hand: below the noise level, the positive velocity and the last gap, each band 1.1 times larger at each reused step."""
    model, state, kept = models["wan"], {"n": -1, "age": 0}, {}

    def guided(args):
        sigma = args["sigma"].reshape(-1, 1, 1, 1, 1)
        cond, negative, level = args["cond"] / sigma, args["uncond"] / sigma, sigma.max().item()
        state["n"] += 1
        reuse = state["n"] > 0 and level <= 0.8 and state["age"] + 1 < 4
        state["age"] = state["age"] + 1 if reuse else 0
        if not reuse:
            kept["gap"], kept["factors"] = negative - cond, [1.0, 1.0]
        else:
            kept["factors"][0] *= 1.1 if 99 < 1000 * level < 901 else 1.0
            kept["factors"][1] *= 1.1 if -1 < 1000 * level < 301 else 1.0
        kept.setdefault("trace", []).append(not reuse)
        gap = guidance_bands(kept["gap"], kept["factors"]) if reuse else kept["gap"]
        return (cond - (CFG["wan"] - 1.0) * gap) * sigma

    by_hand = model.clone()
    by_hand.set_model_sampler_cfg_function(guided)
    expected = sample(by_hand, "wan", STEPS)
    latent = sample(host.attach(model, p.cfg_cache(4, 0.8)), "wan", STEPS)
    assert [entry.computed for entry in reports.find(latent)[0].entries] == kept["trace"]
    assert 3 <= kept["trace"].count(False) <= STEPS - 3
    torch.testing.assert_close(latent, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert (latent - uncached["wan"]).norm() > 20 * (latent - expected).norm()
