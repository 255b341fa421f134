"""The parts that DiT (arXiv:2212.09748) and Latte (arXiv:2401.03048) share, named as in their published files."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WAVES = 256  # sines and cosines that a timestep is turned into
Attend = Callable[[Tensor, Tensor, Tensor, int, Any], Tensor]  # q, k, v [B, L, D], heads, options -> [B, L, D]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, options: Any = None) -> Tensor:
    """Attention of `heads` heads that lie side by side in D: q, k, v and the result are [B, L, D]."""
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def waves(t: Tensor, width: int = WAVES) -> Tensor:
    """Cosines, then sines, [B, width] of timesteps [B] at frequencies that fall geometrically from 1 to 1 / 10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def line(width: int, places: Tensor) -> Tensor:
    """Sines, then cosines, [L, width] of `places` [L]."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = places.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1).float()


def grid(width: int, side: int) -> Tensor:
    """DiT's fixed position embedding [1, side^2, width]: column in the first half of the channels, row in the second."""
    places = torch.arange(side)
    columns, rows = places.repeat(side), places.repeat_interleave(side)
    return torch.cat([line(width // 2, columns), line(width // 2, rows)], -1)[None]


class Timesteps(nn.Module):
    """Embeds timesteps 0..1000."""

    def __init__(self, width: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.mlp = nn.Sequential(layers.Linear(WAVES, width, **factory), nn.SiLU(), layers.Linear(width, width, **factory))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        embedded: Tensor = self.mlp(waves(t).to(dtype))
        return embedded


class Labels(nn.Module):
    """Embeds class labels; the last row stands for no label where the model was trained for guidance."""

    def __init__(self, rows: int, width: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.embedding_table = layers.Embedding(rows, width, **factory)

    def forward(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        embedded: Tensor = self.embedding_table(labels)
        return embedded.to(dtype)


class Patches(nn.Module):
    """Cuts a picture into tokens."""

    def __init__(self, channels: int, width: int, patch: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = layers.Conv2d(channels, width, patch, stride=patch, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, L, D] of pictures [B, C, H, W]."""
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = layers.Linear(width, 3 * width, **factory)
        self.proj = layers.Linear(width, width, **factory)

    def forward(self, x: Tensor, attend: Attend, options: Any) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        result: Tensor = self.proj(attend(q, k, v, self.heads, options))
        return result


class MLP(nn.Module):
    """Two layers with the tanh form of GELU between; the result is `out` wide, or as wide as what came in."""

    def __init__(self, width: int, inner: int, layers: Any, out: int | None = None, **factory: Any) -> None:
        super().__init__()
        self.fc1 = layers.Linear(width, inner, **factory)
        self.fc2 = layers.Linear(inner, out or width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return result


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, L, D] without weights of its own, then scaled and shifted by [B, D] each."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """A transformer block whose norms and gates follow the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, inner: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.attn = Attention(width, heads, layers, **factory)
        self.mlp = MLP(width, inner, layers, **factory)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), layers.Linear(width, 6 * width, **factory))

    def forward(self, x: Tensor, c: Tensor, attend: Attend, options: Any = None) -> Tensor:
        """Tokens x [B, L, D] under the condition c [B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, -1)
        x = x + gate1[:, None] * self.attn(modulated(x, shift1, scale1), attend, options)
        result: Tensor = x + gate2[:, None] * self.mlp(modulated(x, shift2, scale2))
        return result


class Final(nn.Module):
    """Tokens to patches."""

    def __init__(self, width: int, out: int, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.linear = layers.Linear(width, out, **factory)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), layers.Linear(width, 2 * width, **factory))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, -1)
        result: Tensor = self.linear(modulated(x, shift, scale))
        return result
