"""Networks that modulate a part of the picture's tokens for another noise level: TeaCache's probe is each token's own there too."""

import pytest
import torch
from families import FAMILIES, at, fill, walk
from pack.cache_core import Site
from pack.cache_core.policies import Drift

pytestmark = pytest.mark.host
CASES = {  # what they are called with, and how many of the first block's tokens are of the first level
    "HunyuanVideo": ({"guiding_frame_index": torch.tensor([0.0])}, 16),
    "Flux 2": ({"ref_latents": [torch.ones(1, 32, 2, 4)], "ref_latents_method": "index_timestep_zero"}, 16),
}


@pytest.mark.parametrize("family", CASES)
def test_each_token_is_shown_with_its_own_modulation(family):
    build, latent, extra, _ = FAMILIES[family]
    more, first = CASES[family]
    network, shown, given = fill(build()), [], []

    class Spy(Drift):
        def propose(self, state, seen):
            shown.append(seen.probe.clone())
            return Drift.propose(self, state, seen)

    layer = network.double_blocks[0].img_attn.qkv
    hook = layer.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    found, _, _ = walk(network, latent, extra | more, at(Site.STACK, Spy(0.0)), family)
    hook.remove()
    assert torch.isfinite(found).all()
    assert len(shown) == len(given) == 5
    for seen, got in zip(shown, given, strict=True):
        assert seen.shape[1] > first
        torch.testing.assert_close(seen, got)
