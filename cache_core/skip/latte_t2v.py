"""LatteT2V (arXiv:2401.03048) with or without skip branches: text to clips, with the blocks of PixArt-alpha (arXiv:2310.00426)."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CacheError
from .branch import branches
from .dit import Shape, Trunk
from .layers import MLP, Attend, Patches, Timesteps, attend, line, modulated


class SplitAttention(nn.Module):
    """Attention of tokens to themselves or to a text, whose keys and values are made apart."""

    def __init__(self, width: int, heads: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = layers.Linear(width, width, **factory)
        self.to_k = layers.Linear(width, width, **factory)
        self.to_v = layers.Linear(width, width, **factory)
        self.to_out = layers.Linear(width, width, **factory)

    def forward(self, x: Tensor, seen: Tensor, attend: Attend, options: Any) -> Tensor:
        """What tokens x [B, L, D] find in the tokens `seen` [B, M, D]."""
        found: Tensor = self.to_out(attend(self.to_q(x), self.to_k(seen), self.to_v(seen), self.heads, options))
        return found


class TableBlock(nn.Module):
    """A block whose norms and gates follow a modulation that all blocks share, plus a table of its own (adaLN-single).

    arXiv:2310.00426, section 2.3. The attention to the text, which the blocks along time have not, is neither normed nor gated.
    """

    def __init__(self, width: int, heads: int, inner: int, layers: Any, text: bool, **factory: Any) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width, **factory))
        self.attn1 = SplitAttention(width, heads, layers, **factory)
        self.attn2 = SplitAttention(width, heads, layers, **factory) if text else None
        self.ff = MLP(width, inner, layers, **factory)

    def forward(self, x: Tensor, c: Tensor, text: Tensor | None, attend: Attend, options: Any = None) -> Tensor:
        """Tokens x [B F, L, D] under the modulation c [B F, 6, D] and the text [B, M, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.to(c) + c).unbind(1)
        normed = modulated(x, shift1, scale1)
        x = x + gate1[:, None] * self.attn1(normed, normed, attend, options)
        if self.attn2 is not None and text is not None:
            clips = x.reshape(len(text), -1, x.shape[-1])  # each token reads the text by itself: the frames need no copies of it
            x = x + self.attn2(clips, text, attend, options).reshape(x.shape)
        result: Tensor = x + gate2[:, None] * self.ff(modulated(x, shift2, scale2))
        return result


class Times(nn.Module):
    """Embeds timesteps, and makes the modulation that all blocks share of that."""

    def __init__(self, width: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.emb = Timesteps(width, layers, **factory)
        self.linear = layers.Linear(width, 6 * width, **factory)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The embedding [B, D] and the modulation [B, 6, D] of timesteps t [B]."""
        embedded: Tensor = self.emb(t, dtype)
        return embedded, self.linear(functional.silu(embedded)).unflatten(-1, (6, -1))


class LatteT2V(Trunk):
    """LatteT2V and LatteT2V-skip: each spatial block is followed by one along time, and a branch joins pairs of them.

    The published one has 28 pairs, 14 branches, width 1152, 16 heads, T5-XXL's tokens of width 4096, and was trained on 16 frames
    of 64 x 64. The text's tokens are all attended to: padding is cut off before, as the authors do for a single caption.
    """

    def __init__(self, shape: Shape, attend: Attend = attend, layers: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.depth, self.shape, self.attend = shape.depth, shape, attend
        width, sizes = shape.width, (shape.width, shape.heads, shape.inner, layers)
        self.pos_embed = Patches(shape.channels, width, shape.patch, layers, **factory)
        self.adaln_single = Times(width, layers, **factory)
        self.caption_projection = MLP(shape.text, width, layers, width, **factory)
        self.transformer_blocks = nn.ModuleList(TableBlock(*sizes, text=True, **factory) for _ in range(shape.depth))
        self.temporal_transformer_blocks = nn.ModuleList(TableBlock(*sizes, text=False, **factory) for _ in range(shape.depth))
        self.skips = branches(shape.depth if shape.skips else 0, width, layers=layers, **factory)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width, **factory))
        self.proj_out = layers.Linear(width, shape.patch**2 * shape.out, **factory)

    @property
    def pairs(self) -> list[nn.ModuleList]:
        """Spatial and temporal blocks as the host's patches count them."""
        return [nn.ModuleList(pair) for pair in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)]

    def places(self, rows: int, columns: int) -> Tensor:
        """The position embedding [1, L, D]: column in the first half of the channels, row in the second.

        Another number of patches than in training is spread over the same range of places.
        """
        across, down = (torch.arange(count).double() * self.shape.side / count for count in (columns, rows))
        half = self.shape.width // 2
        return torch.cat([line(half, across.repeat(rows)), line(half, down.repeat_interleave(columns))], -1)[None]

    def step(self, index: int, x: Tensor, args: Mapping[str, Any]) -> Tensor:
        """Tokens [B, F L, D] within each frame and to the text, then along time."""
        c, text, frames, options = args["vec"], args["txt"], args["frames"], args["transformer_options"]
        spatial, temporal = self.transformer_blocks[index], self.temporal_transformer_blocks[index]
        x = rearrange(x, "b (f l) d -> (b f) l d", f=frames)
        tokens = x.shape[1]
        x = spatial(x, repeat(c, "b n d -> (b f) n d", f=frames), text, self.attend, options)
        x = rearrange(x, "(b f) l d -> (b l) f d", f=frames)
        if index == 0 and frames > 1:
            x = x + line(self.shape.width, torch.arange(frames)).to(x)
        x = temporal(x, repeat(c, "b n d -> (b l) n d", l=tokens), None, self.attend, options)
        return rearrange(x, "(b l) f d -> b (f l) d", l=tokens)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: Mapping[str, Any] | None = None) -> Tensor:
        """The prediction [B, C, F, H, W] for latents x [B, C, F, H, W] at timesteps [B] in 0..1000 with text tokens [B, M, T]."""
        shape, (count, _, frames, height, width) = self.shape, x.shape
        if height % shape.patch or width % shape.patch:
            raise CacheError(f"Latents of {height} x {width} do not divide into patches of {shape.patch}. Take even sizes.")
        rows, columns = height // shape.patch, width // shape.patch
        embedded, c = self.adaln_single(timesteps, x.dtype)
        tokens = self.pos_embed(rearrange(x, "b c f h w -> (b f) c h w")) + self.places(rows, columns).to(x)
        tokens = rearrange(tokens, "(b f) l d -> b (f l) d", b=count)
        text = self.caption_projection(context)
        tokens = self.through(tokens, c, transformer_options or {}, txt=text, frames=frames)
        shift, scale = (self.scale_shift_table.to(embedded) + embedded[:, None]).unbind(1)
        found = self.proj_out(modulated(tokens, shift, scale))
        sizes = {"f": frames, "h": rows, "w": columns, "p": shape.patch, "q": shape.patch}
        clips: Tensor = rearrange(found, "b (f h w) (p q c) -> b c f (h p) (w q)", **sizes)
        return clips[:, : shape.channels]
