"""VAR: published constants, its words and codes against plain loops, and decoding with a cache against doing everything again."""

import math

import pytest
import torch
from pack.cache_core import CacheError
from pack.cache_core.var.decode import Order, check_pair, decode
from pack.cache_core.var.kv import KVCache
from pack.cache_core.var.quantizer import _SharedPhi
from pack.cache_core.var.sampling import CODE, Sampling, draws, guided, pick
from pack.cache_core.var.scales import SIDES_512, Scales
from pack.cache_core.var.transformer import VAR, Layout
from pack.cache_core.var.vqvae import VQVAE
from pack.cache_core.var.vqvae import Layout as CodecLayout
from var_models import fill

SMALL = Scales((1, 2, 3, 4))
CODEC = CodecLayout(widths=(32, 64), blocks=1, latent=8, words=40, counted=4)


def small(seed=0, depth=2, heads=2, shared=False, scales=SMALL):
    return fill(VAR(Layout(depth, 64 * heads, heads, scales, 256 * heads, classes=5, latent=8, words=40, shared=shared)), seed)


@pytest.fixture(scope="module")
def quantizer():
    return fill(VQVAE(CODEC), 3).quantize


def test_published_constants():
    scales = Scales()
    assert scales.sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert scales.ends == (1, 5, 14, 30, 55, 91, 155, 255, 424, 680)
    assert Scales(SIDES_512).tokens == 2240
    assert [scales.past(n) * 1.5 for n in (0, 3, 9)] == [0.0, 0.5, 1.5]  # t = cfg * si / 9
    d30 = Layout.published(30)
    assert (d30.width, d30.heads, d30.hidden, d30.classes) == (1920, 30, 7680, 1000)
    assert Sampling() == Sampling(cfg=1.5, top_k=900, top_p=0.96, temperature=1.0)
    assert (CODE.top_k, [CODE.heat(n, 10) for n in range(10)]) == (600, [1.1] * 7 + [1.0] * 3)
    phi = _SharedPhi(4, 4)
    assert phi.ticks == pytest.approx([1 / 12, 13 / 36, 23 / 36, 11 / 12])
    assert [list(phi.qresi_ls).index(phi.at(n / 9)) for n in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_guidance_is_the_papers():
    logits = torch.randn(4, 3, 7)
    t = 1.5 * 4 / 9
    assert torch.allclose(guided(logits, t), (1 + t) * logits[:2] - t * logits[2:])


def plain_mask(logits, top_k, top_p):
    """VAR's masking, from its description: all below the k-th go, then those whose ascending sum is at most 1 - p."""
    left = logits.clone()
    if top_k:
        left[logits < logits.topk(top_k).values[-1]] = -math.inf
    if top_p:
        order = left.argsort()
        total = 0.0
        for word in order[:-1].tolist():
            total += left.softmax(-1)[word].item()
            if total <= 1 - top_p:
                logits = logits.index_fill(0, torch.tensor([word]), -math.inf)
        left = torch.where(torch.isinf(logits), logits, left)
    return left


@pytest.mark.parametrize(("top_k", "top_p", "heat"), [(0, 0.0, 1.0), (6, 0.0, 1.0), (0, 0.8, 1.0), (9, 0.7, 1.3), (1, 0.96, 1.1)])
def test_words_are_drawn_from_the_published_distribution(top_k, top_p, heat):
    logits = 2 * torch.randn(12, generator=torch.Generator().manual_seed(4))
    grid = (torch.arange(4000) + 0.5) / 4000
    words = pick(logits.expand(1, 4000, 12), grid[None], Sampling(top_k=top_k, top_p=top_p), heat)
    chances = (plain_mask(logits, top_k, top_p) / heat).softmax(-1)
    assert torch.allclose(words[0].bincount(minlength=12) / 4000, chances, atol=1e-3)


def test_a_draw_of_almost_one_gives_a_word_that_is_left():
    logits = torch.tensor([[[3.0, 2.0, 1.0, -40.0]]])
    assert pick(logits, torch.tensor([[1.0]]), Sampling(top_k=0, top_p=0.9)).item() == 1


def test_residual_codes_follow_the_papers_loop(quantizer):
    features = torch.randn(2, 8, 4, 4)
    words, coded, _ = quantizer(SMALL, features)
    rest, built = features.clone(), torch.zeros_like(features)
    for n, side in enumerate(SMALL.sides):
        small_map = torch.nn.functional.adaptive_avg_pool2d(rest, side)
        book = quantizer.embedding.weight
        nearest = torch.cdist(small_map.flatten(2).transpose(1, 2), book[None].expand(2, -1, -1)).argmin(-1)
        assert torch.equal(nearest, words[n])
        h = torch.nn.functional.interpolate(book[nearest].transpose(1, 2).reshape(2, 8, side, side), (4, 4), mode="bicubic")
        h = 0.5 * h + 0.5 * torch.nn.functional.conv2d(
            h, quantizer.quant_resi.at(n / 3).weight, quantizer.quant_resi.at(n / 3).bias, padding=1
        )
        rest, built = rest - h, built + h
    assert torch.allclose(coded, built, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_decoding_with_a_cache_equals_full_recomputation(quantizer, shared):
    model = small(shared=shared)
    with torch.no_grad():
        classes, seen = torch.tensor([1, 2]), torch.randn(2, SMALL.tokens - 1, 8)
        whole = model(classes, seen)
        cache, condition, parts = KVCache(2, 2, 2, SMALL.tokens, seen), model.condition(classes), []
        for n in range(4):
            span = SMALL.span(n)
            x = model.embed(condition, seen[:, max(span.start - 1, 0) : span.stop - 1], span)
            parts.append(model.logits(model.run(x, condition, cache, model.mask(span)), condition))
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4


def test_decoded_words_are_those_of_teacher_forcing(quantizer):
    model, settings, chance = small(), Sampling(cfg=2.0, top_k=12, top_p=0.9), draws(5, SMALL, 2)
    draft = decode(model, quantizer, Order([0, 3], chance, settings))
    with torch.no_grad():
        seen = quantizer.inputs(SMALL, draft.words)
        logits = model(torch.tensor([0, 3, 5, 5]), seen.repeat(2, 1, 1))
        for n in range(4):
            span = SMALL.span(n)
            again = pick(guided(logits[:, span], 2.0 * n / 3), chance[:, span], settings)
            assert torch.equal(again, draft.words[n])


@pytest.mark.parametrize("until", [1, 2, 3])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_code_with_one_model_on_both_sides_is_plain_var(quantizer, until, cfg):
    model, chance, settings = small(), draws(7, SMALL, 3), Sampling(cfg=cfg, top_k=20)
    plain = decode(model, quantizer, Order([0, 1, 4], chance, settings))
    half = decode(model, quantizer, Order([0, 1, 4], chance, settings), until=until)
    assert half.scale == until
    code = decode(model, quantizer, Order([0, 1, 4], chance, settings), draft=half)
    assert torch.equal(code.features, plain.features)


def test_the_refiner_sees_the_drafters_picture(quantizer):
    drafter, refiner, chance = small(), small(seed=9, depth=1, heads=1), draws(7, SMALL, 2)
    check_pair(drafter, refiner, quantizer)
    half = decode(drafter, quantizer, Order([0, 1], chance, CODE), until=2)
    whole = decode(refiner, quantizer, Order([0, 1], chance, CODE), draft=half)
    plain = decode(drafter, quantizer, Order([0, 1], chance, CODE))
    assert all(torch.equal(a, b) for a, b in zip(whole.words[:2], plain.words[:2], strict=True))
    assert not torch.equal(whole.words[3], plain.words[3])


def test_seed_and_place_in_the_batch_make_the_picture(quantizer):
    model = small()
    one, two = (decode(model, quantizer, Order(classes, draws(3, SMALL, len(classes)), Sampling())) for classes in ([2], [2, 1]))
    assert torch.equal(one.words[3][0], two.words[3][0])
    other = decode(model, quantizer, Order([2], draws(4, SMALL, 1), Sampling()))
    assert not torch.equal(one.words[3], other.words[3])


def test_the_cache_has_room_for_its_scales_alone_and_is_freed(quantizer, monkeypatch):
    told = []
    decode(small(), quantizer, Order([0, 1], draws(0, SMALL, 2), Sampling()), until=3, watch=told.append)
    assert [done.kv_bytes for done in told] == [2 * 2 * 4 * 2 * 14 * 64 * 4] * 3  # layers, k and v, rows, heads, tokens, width, bytes
    assert [done.tokens for done in told] == [1, 4, 9]

    def stop(done):
        told.append(done)
        raise KeyboardInterrupt

    made = []

    class Watched(KVCache):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("pack.cache_core.var.decode.KVCache", Watched)
    with pytest.raises(KeyboardInterrupt):
        decode(small(), quantizer, Order([0], draws(0, SMALL, 1), Sampling()), watch=stop)
    assert [cache.nbytes for cache in made] == [0]


def test_what_cannot_be_decoded_says_why(quantizer):
    model = small()
    with pytest.raises(CacheError, match="classes 0 to 4"):
        decode(model, quantizer, Order([7], draws(0, SMALL, 1), Sampling()))
    with pytest.raises(CacheError, match="choose 1 to 4"):
        decode(model, quantizer, Order([1], draws(0, SMALL, 1), Sampling()), until=5)
    with pytest.raises(CacheError, match="scales differ"):
        check_pair(model, small(scales=Scales((1, 2, 4))), quantizer)
    with pytest.raises(CacheError, match="top_p"):
        Sampling(top_p=1.5)


def test_half_precision_keeps_the_picture_close(quantizer):
    model, chance = small(), draws(1, SMALL, 2)
    with torch.no_grad():
        seen = quantizer.inputs(SMALL, decode(model, quantizer, Order([0, 1], chance, Sampling())).words)
        exact = model(torch.tensor([0, 1]), seen)
        half = model.bfloat16()(torch.tensor([0, 1]), seen)
    assert half.dtype == torch.float32
    assert (half - exact).norm() / exact.norm() < 0.05
