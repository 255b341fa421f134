"""Every family's own network, made tiny: its blocks and branches are reached, and it shows what policies look at."""

from collections import Counter

import comfy.ops
import pytest
import torch
from families import FAMILIES, INSIDE, at, fill, walk
from pack.cache_core import Probe, Site
from pack.cache_core.policies import Drift, Never
from pack.cache_core.predictors import Lagrange

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    build, latent, extra, blocks = FAMILIES[request.param]
    return request.param, fill(build()), latent, extra, blocks


@pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
def test_never_reusing_is_bit_identical_on_every_family(case, site):
    family, network, latent, extra, blocks = case
    plain, _, calls = walk(network, latent, extra, family=family)
    assert torch.isfinite(plain).all()
    assert sorted(calls.values()) == [5] * blocks
    found, run, _ = walk(network, latent, extra, at(site, Never()), family)
    assert torch.equal(plain, found)
    assert run.recipe.site is site
    assert not run.ledger.notes or site is Site.BRANCH


@pytest.mark.parametrize("site", [Site.STACK, Site.BLOCK], ids=lambda site: site.value)
def test_a_mask_skips_the_blocks_of_every_family(case, site):
    family, network, latent, extra, blocks = case
    found, run, calls = walk(network, latent, extra, at(site, predictor=Lagrange(1)), family)
    assert sorted(calls.values()) == [3] * blocks
    assert torch.isfinite(found).all()
    assert run.ledger.computed == 3


def test_a_mask_skips_the_branches_of_every_family(case, monkeypatch):
    """All matrix products of the blocks' attention and MLP are left out: the calls of those layers fall by the mask's share."""
    family, network, latent, extra, _ = case
    made = Counter()
    patched = comfy.ops.disable_weight_init.Linear.forward

    def counted(module, *args, **kwargs):
        made[module.place] += 1
        return patched(module, *args, **kwargs)

    monkeypatch.setattr(comfy.ops.disable_weight_init.Linear, "forward", counted)
    for name, module in network.named_modules():
        module.place = name
    found, run, calls = walk(network, latent, extra, at(Site.BRANCH), family)
    assert set(calls.values()) == {5}, "the blocks themselves always run"
    assert torch.isfinite(found).all()
    prefixes = ("blocks.", "double_blocks.", "single_blocks.", "transformer_blocks.")
    inner = {name: count for name, count in made.items() if name.startswith(prefixes) and "mod" not in name}
    assert set(inner.values()) == {3}, inner
    assert [entry.share for entry in run.ledger.entries] == [1.0, 1.0, 0.0, 1.0, 0.0]
    expected = (
        []
        if "Wan" in family or family == "LTXV"
        else [f"{type(network).__name__} has no cross-attention of its own, so there is none to skip."]
    )
    assert run.ledger.notes == expected


def test_text_and_picture_of_one_length_are_kept_apart():
    """Qwen-Image's attention returns both: of 16 tokens each, four outputs are kept for each of 3 blocks."""
    build, latent, _, _ = FAMILIES["Qwen-Image"]
    network, long = fill(build()), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(4))
    _, run, _ = walk(network, latent, {}, at(Site.BRANCH), text=long)
    assert run.ledger.peak_bytes == 3 * 4 * 16 * 128 * 4


@pytest.mark.parametrize("probe", [Probe.MODULATED, Probe.FIRST_BLOCK])
def test_every_family_can_show_what_policies_look_at(case, probe):
    family, network, latent, extra, blocks = case
    found, run, calls = walk(network, latent, extra, at(Site.STACK, Drift(1e9, probe), head=1), family)
    assert sorted(calls.values()) == [1] * (blocks - 1) + [5]
    assert run.ledger.reused == 4
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith(("Wan", "LTXV"))])
def test_the_modulated_input_is_what_the_first_blocks_attention_gets(family):
    """Wan's and LTXV's is the time embedding, as TeaCache's authors have it."""
    build, latent, extra, _ = FAMILIES[family]
    network = fill(build())
    shown, given = [], []

    class Spy(Drift):
        def propose(self, state, seen):
            shown.append(seen.probe.clone())
            return Drift.propose(self, state, seen)

    first = getattr(network, "double_blocks", None) or network.transformer_blocks
    layer = first[0].img_attn.qkv if hasattr(first[0], "img_attn") else first[0].attn.to_q
    hook = layer.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    walk(network, latent, extra, at(Site.STACK, Spy(0.0)), family)
    hook.remove()
    for seen, got in zip(shown, given, strict=True):
        torch.testing.assert_close(seen, got)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("Wan")])
def test_wan_shows_the_time_embedding_that_it_makes_itself(family):
    build, latent, extra, _ = FAMILIES[family]
    network, shown, made = fill(build()), [], []

    class Spy(Drift):
        def propose(self, state, seen):
            shown.append(seen.probe.clone())
            return Drift.propose(self, state, seen)

    hook = network.time_projection.register_forward_pre_hook(lambda module, args: made.append(args[0].clone()))
    walk(network, latent, extra, at(Site.STACK, Spy(0.0, Probe.EMBEDDING)), family)
    hook.remove()
    assert len(shown) == len(made) == 5
    assert all(torch.equal(ours.flatten(), own.flatten()) for ours, own in zip(shown, made, strict=True))
    assert not torch.equal(shown[0], shown[1])
