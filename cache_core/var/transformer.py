"""VAR's transformer: token maps, each predicted from the coarser ones (arXiv 2404.02905), keys as published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import CacheError
from .kv import KVCache
from .scales import Scales, scales_of

SHARPEST = math.log(100)  # limit of the learned scale of attention
NORM = 1e-6


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a VAR. A published one of depth d has width 64 d, d heads and 1000 classes."""

    depth: int
    width: int
    heads: int
    scales: Scales
    hidden: int  # width of the feed-forward layer
    classes: int = 1000
    latent: int = 32  # channels of a token
    words: int = 4096
    shared: bool = False  # one modulation for all blocks, as in d36 at 512 pixels

    @classmethod
    def published(cls, depth: int, scales: Scales | None = None, shared: bool = False) -> "Layout":
        """var_d16, d20, d24, d30 and d36."""
        return cls(depth, 64 * depth, depth, scales or Scales(), 256 * depth, shared=shared)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Layout":
        """The sizes found in weights with the published keys. Raises CacheError where it is no VAR with normalised attention."""
        try:
            heads = weights["blocks.0.attn.scale_mul_1H11"].shape[1]
            tokens, width = weights["pos_1LC"].shape[1:]
            count, hidden = len(weights["lvl_embed.weight"]), len(weights["blocks.0.ffn.fc1.weight"])
            classes, words = len(weights["class_emb.weight"]) - 1, len(weights["head.weight"])
            latent = weights["word_embed.weight"].shape[1]
        except KeyError as missing:
            raise CacheError(
                f"This is not the transformer of a VAR: it lacks {missing}. Choose a file such as var_d16.pth or refiner_8.pth; the codec "
                "(vae_ch160v4096z32.pth) goes into the other input."
            ) from None
        levels = weights["lvl_1L"].flatten().tolist() if "lvl_1L" in weights else None
        depth = sum(key.endswith(".attn.scale_mul_1H11") for key in weights)
        shared = "blocks.0.ada_gss" in weights
        return cls(depth, width, heads, scales_of(levels, count, tokens), hidden, classes, latent, words, shared)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a class does to every layer, computed once for a picture; R rows."""

    start: Tensor  # [R, C]
    blocks: list[Tensor]  # of each block [R, 1, 6, C]: gates, scales and shifts of attention and feed-forward layer
    head: Tensor  # [R, 1, 2, C]: scale and shift


class Attention(nn.Module):
    """Attention between unit vectors, sharpened by a learned scale for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.mat_qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = nn.functional.linear(x, self.mat_qkv.weight, bias)
        q, k, v = parts.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        sharp = self.scale_mul_1H11.clamp_max(SHARPEST).exp().float()
        q, k = (nn.functional.normalize(q.float(), dim=-1) * sharp).to(v), nn.functional.normalize(k.float(), dim=-1).to(v)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        h = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        y: Tensor = self.proj(h.transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Two layers with GELU (tanh) between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))
        return y


class Block(nn.Module):
    """Attention and feed-forward layer, each modulated by the class (AdaLN)."""

    def __init__(self, width: int, heads: int, hidden: int, shared: bool) -> None:
        super().__init__()
        self.attn, self.ffn = Attention(width, heads), FeedForward(width, hidden)
        if shared:
            self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, width))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def modulation(self, start: Tensor, shared: Tensor | None) -> Tensor:
        """[R, 1, 6, C] of the class embedding [R, C], or of what all blocks share of it [R, 1, 6, C]."""
        if shared is not None:
            return self.ada_gss + shared
        y: Tensor = self.ada_lin(start)
        return y.view(len(start), 1, 6, -1)

    def forward(self, x: Tensor, modulation: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation.unbind(2)
        x = x + gate1 * self.attn(_normed(x) * (1 + scale1) + shift1, layer, cache, mask)
        y: Tensor = x + gate2 * self.ffn(_normed(x) * (1 + scale2) + shift2)
        return y


class _Head(nn.Module):
    """The modulation before the last layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class VAR(nn.Module):
    """Logits of each token of a scale, from the class and the features that the coarser scales built."""

    lvl_1L: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout, self.scales, width = layout, layout.scales, layout.width
        self.word_embed = nn.Linear(layout.latent, width)
        self.class_emb = nn.Embedding(layout.classes + 1, width)  # the last one is no class at all
        self.pos_start = nn.Parameter(torch.zeros(1, self.scales.ends[0], width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, self.scales.tokens, width))
        self.lvl_embed = nn.Embedding(len(self.scales), width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)) if layout.shared else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, layout.heads, layout.hidden, layout.shared) for _ in range(layout.depth))
        self.head_nm, self.head = _Head(width), nn.Linear(width, layout.words)
        self.register_buffer("lvl_1L", torch.tensor([self.scales.levels()]))

    def condition(self, classes: Tensor) -> Condition:
        """Of classes [R], 0 to `layout.classes`; the last stands for none."""
        start = self.class_emb(classes)
        shared = self.shared_ada_lin(start).unflatten(-1, (1, 6, -1)) if self.layout.shared else None
        head = self.head_nm.ada_lin(start).unflatten(-1, (1, 2, -1))
        return Condition(start, [cast(Block, block).modulation(start, shared) for block in self.blocks], head)

    def embed(self, condition: Condition, seen: Tensor, span: slice) -> Tensor:
        """Input [R, l, C] of the tokens in `span`; `seen` [R, ., latent] is what they are shown, without the first scale's."""
        first, places = self.scales.ends[0], self.lvl_embed(self.lvl_1L[:, span]) + self.pos_1LC[:, span]
        x = self.word_embed(seen.to(self.word_embed.weight.dtype))
        if span.start < first:
            assert span.start == 0, "The first scale is embedded whole."
            x = torch.cat([condition.start[:, None] + self.pos_start, x], 1)
        y: Tensor = x + places
        return y

    def mask(self, span: slice) -> Tensor | None:
        """Who may see whom [l, span.stop]: each token its own scale and the coarser ones. None where all see all."""
        levels = self.lvl_1L[0, : span.stop]
        return None if levels[span.start] == levels[-1] else levels[span, None] >= levels

    def run(self, x: Tensor, condition: Condition, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """The blocks, on inputs [R, l, C]; with a cache, after the tokens that it holds."""
        for layer, (block, modulation) in enumerate(zip(self.blocks, condition.blocks, strict=True)):
            x = block(x, modulation, layer, cache, mask)
        if cache is not None:
            cache.advance(x.shape[1])
        return x

    def logits(self, x: Tensor, condition: Condition) -> Tensor:
        """Of words, [R, l, V] in float32, from the blocks' outputs [R, l, C]."""
        scale, shift = condition.head.unbind(2)
        y: Tensor = self.head((_normed(x.float()) * (1 + scale) + shift).to(self.head.weight.dtype))
        return y.float()

    def forward(self, classes: Tensor, seen: Tensor) -> Tensor:
        """Logits [R, l, V] of all tokens at once, with what they are shown known, as in training: `seen` [R, l - first, latent]."""
        condition, span = self.condition(classes), slice(0, self.scales.ends[0] + seen.shape[1])
        return self.logits(self.run(self.embed(condition, seen, span), condition, mask=self.mask(span)), condition)


def _normed(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], eps=NORM)
