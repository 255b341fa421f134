"""Skip branches on Flux and Wan, Skip-Cache against a plain loop, and the fit in closed form."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from host_models import BLOCKS, BlockCalls, make, sample
from pack.cache_core import CacheError, RecipeError
from pack.cache_core.policies import Never
from pack.cache_core.predictors import Hold, Lagrange
from pack.cache_core.skip import files
from pack.cache_core.skip.branch import Branch, branches, partner
from pack.cache_core.skip.cache import Bridged, skip_cache
from pack.cache_core.skip.fit import Sums, gathering
from pack.nodes.adapters import dit, host, reports, skips
from skip_models import SHAPE, file_like, randomised


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in BLOCKS}


def trained(family, seed=0):
    return randomised(branches(BLOCKS[family], 128), seed)


def test_the_partners_of_deep_blocks_are_their_mirror_images():
    assert [partner(b, 6) for b in range(6)] == [None, None, None, 2, 1, 0]
    assert [partner(b, 5) for b in range(5)] == [None, None, None, 1, 0]


def test_a_branch_is_the_published_formula_in_float32():
    branch = randomised(Branch(8)).bfloat16()
    x, skip = (torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (1, 2))
    joined = torch.cat([x, skip], -1).float()
    spread = (joined.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    normed = (joined - joined.mean(-1, keepdim=True)) / spread * branch.norm.weight.float() + branch.norm.bias.float()
    assert torch.equal(branch(x, skip), branch.linear(normed.bfloat16()))


@pytest.mark.host
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_untrained_added_branches_change_no_bit_and_trained_ones_do(models, family):
    bare = sample(models[family], family, cfg=3.0)
    added = skips.attach_branches(models[family], branches(BLOCKS[family], 128, added=True))
    assert torch.equal(bare, sample(added, family, cfg=3.0))
    assert not torch.equal(bare, sample(skips.attach_branches(models[family], trained(family)), family, cfg=3.0))
    assert torch.equal(bare, sample(models[family], family, cfg=3.0))


@pytest.mark.host
def test_flux_gives_the_last_single_block_the_tokens_after_the_first_double_block(models):
    """By hooks on the blocks: text, then picture, joined to what enters the last block."""
    made, seen = trained("flux"), {}
    network = models["flux"].model.diffusion_model
    hooks = [
        network.double_blocks[0].register_forward_hook(lambda m, a, out: seen.update(first=torch.cat([out[1], out[0]], 1).clone())),
        network.single_blocks[0].register_forward_hook(lambda m, a, out: seen.update(before=out.clone())),
        network.single_blocks[1].register_forward_pre_hook(lambda m, a, k: seen.update(entry=a[0].clone()), with_kwargs=True),
    ]
    sample(skips.attach_branches(models["flux"], made), "flux", steps=1)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        assert torch.equal(seen["entry"], made[0](seen["before"], seen["first"]))


def skip_cached_by_hand(network, x, sigmas, every, label):
    """Skip-Cache as the paper words it, on a flow with Euler: written without any of the package's caching."""
    kept, runs, half = None, [0] * len(network.blocks), len(network.blocks) // 2
    for n, (sigma, following) in enumerate(pairwise(sigmas)):
        c = network.t_embedder(sigma[None] * 1000, x.dtype) + network.y_embedder(torch.tensor([label]), x.dtype)
        tokens, outputs = network.x_embedder(x) + network.pos_embed, []
        for b, block in enumerate(network.blocks):
            last = len(network.blocks) - 1
            if n % every and 0 < b < last:
                outputs.append(None)
                continue
            if b == last:
                tokens = kept = kept if n % every else tokens
            if b >= half:
                branch = network.skips[b - half]
                tokens = branch.linear(branch.norm(torch.cat([tokens, outputs[last - b]], -1)))
            tokens, runs[b] = block(tokens, c, network.attend), runs[b] + 1
            outputs.append(tokens)
        x = x + (following - sigma) * network.pictures(network.final_layer(tokens, c))
    return x, runs


@pytest.mark.host
@pytest.mark.parametrize("every", [2, 3])
def test_skip_cache_is_the_plain_loop_of_the_paper(every):
    model = dit.build(file_like(SHAPE), {"prediction": "flow", "shift": "3.0", "heads": "2"})
    network, label = model.model.diffusion_model, dit.condition([4])
    with BlockCalls(model) as calls:
        latent = sample(host.attach(model, skip_cache(every)), "dit", steps=7, positive=label, shape=(4, 8, 8))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 7)
    with torch.inference_mode():
        expected, runs = skip_cached_by_hand(network, noise, sigmas, every, 4)
    assert list(calls.calls.values()) == runs
    assert torch.allclose(model.model.process_latent_in(latent), expected, atol=2e-5)


@pytest.mark.host
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_skip_cache_computes_the_outer_blocks_always_and_the_middle_once_in_n(models, family):
    cached = host.attach(skips.attach_branches(models[family], trained(family)), skip_cache(3))
    with BlockCalls(cached) as calls:
        latent = sample(cached, family)
    assert sorted(calls.calls.values()) == [3, 8, 8]
    ledger = reports.find(latent)[0]
    assert ledger.computed == 3
    assert ledger.macs < ledger.macs_if_computed


@pytest.mark.host
def test_the_order_of_the_nodes_does_not_matter_and_never_reusing_is_the_model_with_branches(models):
    made = trained("flux")
    after = host.attach(skips.attach_branches(models["flux"], made), skip_cache(2))
    before = skips.attach_branches(host.attach(models["flux"], skip_cache(2)), made)
    assert torch.equal(sample(after, "flux", cfg=3.0), sample(before, "flux", cfg=3.0))
    idle = host.attach(skips.attach_branches(models["flux"], made), replace(skip_cache(2), policy=Never()))
    assert torch.equal(sample(idle, "flux"), sample(skips.attach_branches(models["flux"], made), "flux"))


@pytest.mark.host
def test_macs_of_branches_are_counted(models):
    def counted(model):
        latent = sample(host.attach(model, replace(skip_cache(2), policy=Never())), "wan", steps=2)
        return reports.find(latent)[0].macs

    with_branches = counted(skips.attach_branches(models["wan"], trained("wan")))
    tokens = 3 * 4 * 4
    assert with_branches - counted(models["wan"]) == 2 * tokens * 2 * 128 * 128


@pytest.mark.host
def test_steps_outside_of_the_levels_are_computed_and_a_forecast_may_stand_in(models):
    def run(recipe):
        return reports.find(sample(host.attach(models["wan"], recipe), "wan", steps=12))[0]

    levels = run(skip_cache(2, levels=(0.05, 0.7)))
    assert all(entry.computed for entry in levels.entries if not 0.05 <= entry.sigma <= 0.7)
    assert levels.reused > 0
    held, line = run(skip_cache(2)), run(skip_cache(2, predictor=Lagrange(1)))
    assert line.computed == held.computed
    assert [entry.error for entry in line.entries[4:]] != [entry.error for entry in held.entries[4:]]


@pytest.mark.host
def test_branches_of_another_model_are_refused_in_words(models):
    with pytest.raises(RecipeError, match="3 blocks of width 128, which need 1"):
        skips.attach_branches(models["flux"], branches(8, 128))


def test_a_fit_finds_the_matrix_that_made_the_pairs():
    sums, generator = Sums(), torch.Generator().manual_seed(3)
    matrix = torch.randn(6, 6, generator=generator)
    for _ in range(8):
        before, entry, kept = torch.randn(3, 2, 40, 6, generator=generator)
        sums.add(before, entry, kept, kept + (entry - before) @ matrix.T)
    assert torch.allclose(sums.solve(1e-12), matrix, atol=1e-4)
    assert sums.explained(matrix) > 0.999
    assert abs(sums.explained(torch.zeros(6, 6))) < 1e-6


@pytest.mark.host
def test_a_fitted_branch_forecasts_better_than_the_reuse_it_mends_and_its_macs_count(models):
    sums = Sums()
    sample(host.attach(models["wan"], gathering(sums, 2, 1)), "wan", steps=16)
    branch = sums.solve()

    def errors(recipe):
        found = reports.find(sample(host.attach(models["wan"], recipe), "wan", steps=16))[0]
        return sum(entry.error for entry in found.entries if entry.error is not None), found.macs

    bridged = skip_cache(2, predictor=Bridged(branch))
    held, mended = errors(replace(bridged, predictor=Hold())), errors(bridged)
    assert mended[0] < held[0]
    assert mended[1] - held[1] == 8 * 3 * 4 * 4 * 128 * 128


def test_branch_files_keep_what_they_hold_and_refuse_another_kind(tmp_path):
    made = randomised(branches(5, 12, added=True))
    files.save(made, tmp_path / "mine.safetensors", {"steps": 3})
    found, about = files.load(tmp_path / "mine.safetensors")
    assert about == {"steps": 3}
    assert json.dumps([branch.added for branch in found]) == "[true, true]"
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), made.state_dict().values(), strict=True))
    with pytest.raises(CacheError, match="fitted branch"):
        files.load_fitted(tmp_path / "mine.safetensors")
