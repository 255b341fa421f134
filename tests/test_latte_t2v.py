"""LatteT2V: the published keys, its mathematics against plain loops and diffusers' own, texts as conditions, and Skip-Cache on it."""

import argparse
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from host_models import WIDTH, prompt, sample
from pack.cache_core import CacheError
from pack.cache_core import published as p
from pack.cache_core.policies import Never
from pack.cache_core.skip import checkpoint
from pack.cache_core.skip.cache import skip_cache
from pack.cache_core.skip.dit import Shape
from pack.cache_core.skip.latte_t2v import LatteT2V
from pack.nodes.adapters import dit, host, inside, reports
from safetensors.torch import save_file
from torch.nn import functional as F

SHAPE = Shape(depth=4, width=144, heads=2, channels=4, out=8, classes=0, side=32, inner=48, frames=16, text=WIDTH)
CLIP = (4, 3, 8, 8)


def make(shape=SHAPE):
    """A network of these sizes with random weights, always the same."""
    generator, network = torch.Generator().manual_seed(0), LatteT2V(shape)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.5 if "table" in name else value[0].numel() ** -0.5))
    return network


def file_like(shape=SHAPE):
    """Weights of such a network under the published keys, with what else the authors' files have."""
    return {**checkpoint.published(make(shape).state_dict()), "caption_projection.y_embedding": torch.zeros(120, WIDTH)}


def latents(seed=1, count=1, shape=CLIP):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Plain:
    """LatteT2V written out from the published code's equations, frame by frame and place by place, on the published keys."""

    def __init__(self, weights):
        self.w, self.runs = weights, Counter()
        self.depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("transformer_blocks."))

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def attention(self, name, x, seen):
        q, k, v = (self.linear(f"{name}.to_{part}", side) for part, side in (("q", x), ("k", seen), ("v", seen)))
        heads = [(a @ b.T / 72**0.5).softmax(-1) @ c for a, b, c in zip(q.split(72, 1), k.split(72, 1), v.split(72, 1), strict=True)]
        return self.linear(f"{name}.to_out.0", torch.cat(heads, 1))

    def block(self, name, x, modulation, text):
        """Tokens x [L, D] of a frame, or [F, D] of a place."""
        self.runs[name] += 1
        shift1, scale1, gate1, shift2, scale2, gate2 = self.w[f"{name}.scale_shift_table"] + modulation.reshape(6, -1)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(f"{name}.attn1", normed, normed)
        if text is not None:
            x = x + self.attention(f"{name}.attn2", x, text)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.linear(f"{name}.ff.net.2", F.gelu(self.linear(f"{name}.ff.net.0.proj", normed), approximate="tanh"))

    def waves(self, place):
        """Sines, then cosines of a place, half the width."""
        half = self.w["proj_out.weight"].shape[1] // 4
        angles = place / 10000.0 ** (torch.arange(half) / half)
        return torch.cat([angles.sin(), angles.cos()])

    def pair(self, n, x, modulation, text):
        """Tokens x [F, L, D] through a spatial block and the one along time."""
        x = torch.stack([self.block(f"transformer_blocks.{n}", frame, modulation, text) for frame in x])
        if n == 0 and len(x) > 1:
            half = x.shape[-1] // 2
            angles = torch.arange(len(x))[:, None] / 10000.0 ** (torch.arange(half) / half)
            x = x + torch.cat([angles.sin(), angles.cos()], 1)[:, None]
        return torch.stack([self.block(f"temporal_transformer_blocks.{n}", x[:, at], modulation, None) for at in range(x.shape[1])], 1)

    def __call__(self, x, t, text, kept=None):
        """The mean for one clip x [C, F, H, W], and what enters the last pair; with `kept` for that, the middle pairs do not run."""
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        angles = t * 10000.0 ** (-torch.arange(128) / 128)
        name = "adaln_single.emb.timestep_embedder.linear_"
        embedded = self.linear(f"{name}2", F.silu(self.linear(f"{name}1", torch.cat([angles.cos(), angles.sin()]))))
        modulation = self.linear("adaln_single.linear", F.silu(embedded))
        text = F.gelu(self.linear("caption_projection.linear_1", text), approximate="tanh")
        text = self.linear("caption_projection.linear_2", text)
        tokens = F.conv2d(x.transpose(0, 1), self.w["pos_embed.proj.weight"], self.w["pos_embed.proj.bias"], 2).flatten(2).mT
        tokens = tokens + torch.stack(
            [torch.cat([self.waves(32 * c / columns), self.waves(32 * r / rows)]) for r in range(rows) for c in range(columns)]
        )
        outputs, last = {}, self.depth - 1
        for n in range(self.depth):
            if kept is not None and 0 < n < last:
                continue
            if n == last:
                tokens = entry = tokens if kept is None else kept
            other = last - n
            if other < n and "skip_norms.0.weight" in self.w:
                at = n - self.depth // 2
                joined = torch.cat([tokens, outputs[other]], -1)
                joined = F.layer_norm(joined, joined.shape[-1:], self.w[f"skip_norms.{at}.weight"], self.w[f"skip_norms.{at}.bias"], 1e-6)
                tokens = self.linear(f"skip_linears.{at}.linear", joined)
            tokens = outputs[n] = self.pair(n, tokens, modulation, text)
        shift, scale = self.w["scale_shift_table"] + embedded
        tokens = self.linear("proj_out", F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        patches = tokens.reshape(-1, rows, columns, 2, 2, 8).permute(5, 0, 1, 3, 2, 4)
        return patches.reshape(8, -1, 2 * rows, 2 * columns)[:4], entry


def loop(plain, x, sampling, steps, texts, cfg, every=1):
    """Euler's steps with guidance, and Skip-Cache as the paper words it: a whole evaluation in `every`, then outer blocks alone."""
    import comfy.samplers

    kept = [None] * len(texts)
    for n, (sigma, following) in enumerate(pairwise(comfy.samplers.calculate_sigmas(sampling, "simple", steps))):
        x = x * (1 + sigma**2) ** 0.5 if n == 0 else x  # the host's start of noise
        t, found = sampling.timestep(sigma), []
        for m, text in enumerate(texts):
            noise, kept[m] = plain(x / (1 + sigma**2) ** 0.5, t, text, kept[m] if n % every else None)
            found.append(noise)
        x = x + (following - sigma) * (found[-1] + cfg * (found[0] - found[-1]))
    return x


def calls_of(network):
    counts = Counter()
    for kind in ("transformer_blocks", "temporal_transformer_blocks"):
        for n, block in enumerate(getattr(network, kind)):
            block.register_forward_hook(lambda *_, name=f"{kind}.{n}": counts.update([name]))
    return counts


def test_the_key_layout_is_the_published_one():
    both = ("weight", "bias")
    attention = {f"{part}.{kind}" for part in ("to_q", "to_k", "to_v", "to_out.0") for kind in both}
    shared = {"scale_shift_table"} | {f"{part}.{kind}" for part in ("ff.net.0.proj", "ff.net.2") for kind in both}
    block = shared | {f"attn1.{key}" for key in attention}
    expected = {f"temporal_transformer_blocks.{n}.{key}" for n in (0, 1) for key in block}
    expected |= {f"transformer_blocks.{n}.{key}" for n in (0, 1) for key in block | {f"attn2.{key}" for key in attention}}
    outer = {"pos_embed.proj", "adaln_single.linear", "proj_out", "skip_norms.0", "skip_linears.0.linear"}
    outer |= {f"{part}_{n}" for part in ("adaln_single.emb.timestep_embedder.linear", "caption_projection.linear") for n in (1, 2)}
    expected |= {f"{key}.{kind}" for key in outer for kind in both}
    assert file_like(replace(SHAPE, depth=2)).keys() == expected | {"scale_shift_table", "caption_projection.y_embedding"}


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, skips=False)], ids=["skip", "bare"])
@pytest.mark.parametrize("size", [CLIP, (4, 1, 8, 4)], ids=["clip", "picture"])
def test_the_forward_is_the_published_one_written_out(shape, size):
    network, plain = make(shape), Plain(file_like(shape))
    x, text, t = latents(count=2, shape=size), latents(2, 2, (5, WIDTH)), torch.tensor([980.0, 20.0])
    with torch.no_grad():
        found = network(x, t, text)
        expected = torch.stack([plain(*one)[0] for one in zip(x, t, text, strict=True)])
    assert torch.allclose(found, expected, atol=2e-5 * float(expected.abs().max()))
    assert expected.std() > 0.1


def test_without_branches_it_is_the_latte_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is a tool of these tests alone: ./encore test installs it")
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 72, "num_layers": 2, "caption_channels": WIDTH, "cross_attention_dim": 144}
    kinds = {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6, "activation_fn": "gelu-approximate"}
    theirs = diffusers.LatteTransformer3DModel(
        in_channels=4, out_channels=8, patch_size=2, sample_size=64, attention_bias=True, video_length=3, **sizes, **kinds
    ).eval()
    weights = theirs.state_dict()
    network = LatteT2V(checkpoint.shape_of(weights, {}))
    network.load_state_dict(checkpoint.ours(weights))
    x, text, t = latents(count=2), latents(2, 2, (5, WIDTH)), torch.tensor([980, 20])
    with torch.no_grad():
        expected = theirs(x, t, text, return_dict=False)[0][:, :4]
        assert torch.allclose(network(x, t, text), expected, atol=1e-5)


@pytest.mark.host
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, skips=False)], ids=["skip", "bare"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_file_goes_through_the_node_and_samples_text_with_guidance(tmp_path, monkeypatch, shape, form):
    import folder_paths
    from pack.nodes.skip.model import EncoreSkipModel

    weights, path = file_like(shape), tmp_path / f"Latte-skip.{form}"
    if form == "pt":
        old = {key: torch.zeros_like(value) for key, value in weights.items()}
        torch.save({"model": old, "ema": weights, "args": argparse.Namespace(model="LatteT2V_skip")}, path)
    else:
        save_file(weights, path)
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda *_: str(path))
    model = EncoreSkipModel.execute(path.name).args[0]
    network = model.model.diffusion_model
    assert network.shape == shape
    assert all(torch.equal(value, weights[key]) for key, value in checkpoint.published(network.state_dict()).items())
    latent = sample(model, "latte", steps=3, cfg=3.0, positive=prompt(6, 11), negative_tokens=4, shape=CLIP)
    texts = [prompt(6, 11)[0][0][0], prompt(4, 12)[0][0][0]]
    expected = loop(Plain(weights), latents()[0], model.get_model_object("model_sampling"), 3, texts, 3.0)
    assert torch.allclose(model.model.process_latent_in(latent)[0], expected, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.host
def test_padding_of_a_text_is_cut_off_where_the_condition_says_what_it_is():
    model = dit.build(file_like(), {})
    bare = prompt(5, 11)
    padded = [[torch.cat([bare[0][0], torch.full((1, 3, WIDTH), 7.0)], 1), {"attention_mask": torch.tensor([[1] * 5 + [0] * 3])}]]
    shape = {"steps": 2, "shape": CLIP}
    assert torch.equal(sample(model, "latte", positive=padded, **shape), sample(model, "latte", positive=bare, **shape))
    text, mask = torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.equal(dit.kept(text, mask), text * mask[..., None])
    assert torch.equal(dit.kept(text, mask[:1, :2]), text)
    with pytest.raises(CacheError, match="width 64, and the condition has tokens of width 1"):
        sample(model, "latte", positive=dit.condition([3]), **shape)


@pytest.mark.host
@pytest.mark.parametrize("every", [2, 3])
def test_skip_cache_is_the_plain_loop_of_the_paper(every):
    weights = file_like()
    model = dit.build(weights, {})
    calls, plain = calls_of(model.model.diffusion_model), Plain(weights)
    latent = sample(host.attach(model, skip_cache(every)), "latte", steps=7, positive=prompt(5, 11), shape=CLIP)
    expected = loop(plain, latents()[0], model.get_model_object("model_sampling"), 7, [prompt(5, 11)[0][0][0]], 1.0, every)
    assert torch.allclose(model.model.process_latent_in(latent)[0], expected, atol=2e-5 * float(expected.abs().max()))
    whole = -(-7 // every)
    assert calls == Counter({f"{kind}transformer_blocks.{n}": 7 if n in (0, 3) else whole for kind in ("", "temporal_") for n in range(4)})
    ledger = reports.find(latent)[0]
    assert (ledger.computed, ledger.site, ledger.notes) == (whole, "stack", [])
    assert ledger.macs < ledger.macs_if_computed


@pytest.mark.host
def test_recipes_reach_its_pairs_and_never_reusing_changes_no_bit():
    model, shape = dit.build(file_like(replace(SHAPE, skips=False)), {}), {"steps": 4, "cfg": 3.0, "shape": CLIP}
    bare = sample(model, "latte", **shape)
    assert torch.equal(bare, sample(host.attach(model, replace(skip_cache(2), policy=Never())), "latte", **shape))
    for recipe in (p.teacache(1e9, fitted=False), p.first_block_cache(1e9)):
        assert inside.unreachable(model.model.diffusion_model, recipe) is None
        ledger = reports.find(sample(host.attach(model, recipe), "latte", **shape))[0]
        assert ledger.reused > 0
        assert ledger.site == "stack"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transformer_blocks.1.attn2.to_q.bias": None}, "look like a LatteT2V and lack transformer_blocks.1.attn2.to_q.bias"),
        ({"norm.weight": torch.zeros(1)}, "have norm.weight besides"),
        ({"transformer_blocks.2.scale_shift_table": torch.zeros(6, 9)}, r"scale_shift_table of \[6, 9\] in place of \[6, 144\]"),
        ({"caption_projection.linear_1.weight": None}, "no caption_projection.linear_1.weight, so they are no LatteT2V"),
    ],
)
def test_weights_that_are_not_whole_are_refused_in_words(change, words):
    weights = {key: value for key, value in {**file_like(), **change}.items() if value is not None}
    with pytest.raises(CacheError, match=words):
        dit.build(weights, {})


def test_files_that_are_not_whole_and_models_for_pictures_are_refused_in_words(tmp_path):
    for form in ("pt", "safetensors"):
        path = tmp_path / f"cut.{form}"
        torch.save(file_like(), path) if form == "pt" else save_file(file_like(), path)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(CacheError, match=f"cut.{form} is no whole file of weights"):
            dit.load(path)
    with pytest.raises(CacheError, match="no DiT and no Latte"):
        checkpoint.shape_of({key: value for key, value in file_like().items() if "temporal" not in key}, {})
    with pytest.raises(CacheError, match="Latents of 7 x 8"):
        make()(latents(shape=(4, 3, 7, 8)), torch.zeros(1), torch.zeros(1, 2, WIDTH))
