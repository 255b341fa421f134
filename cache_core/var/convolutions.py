"""The convolutional encoder and decoder of VAR's VQVAE (arXiv 2404.02905, after VQGAN, 2012.09841), keys as published."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

GROUPS = 32  # of every norm, as published; narrower layers take as many as divide their channels


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels, eps=1e-6)


def _conv(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2 if stride == 1 else 0)


class Residual(nn.Module):
    """Two convolutions, each after norm and SiLU, and a shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inside), _conv(inside, outside)
        self.norm2, self.conv2 = _norm(outside), _conv(outside, outside)
        self.nin_shortcut = nn.Identity() if inside == outside else _conv(inside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        y: Tensor = self.nin_shortcut(x) + self.conv2(nn.functional.silu(self.norm2(h)))
        return y


class Attention(nn.Module):
    """Attention of one head over the pixels of a map [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv, self.proj_out = _conv(channels, 3 * channels, kernel=1), _conv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        h = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        y: Tensor = x + self.proj_out(h.transpose(1, 2).reshape(x.shape))
        return y


class Resample(nn.Module):
    """A convolution that halves a map, or one that follows a doubling."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up, self.conv = up, _conv(channels, channels, stride=1 if up else 2)

    def forward(self, x: Tensor) -> Tensor:
        larger = nn.functional.interpolate(x, scale_factor=2.0) if self.up else nn.functional.pad(x, (0, 1, 0, 1))
        y: Tensor = self.conv(larger)
        return y


class Level(nn.Module):
    """The blocks of one resolution; its attention, where it has any, is one after each block."""

    def __init__(self, widths: Sequence[int], attend: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(a, b) for a, b in itertools.pairwise(widths))
        self.attn = nn.ModuleList(Attention(width) for width in widths[1:] if attend)

    def forward(self, x: Tensor) -> Tensor:
        for n, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[n](x)
        return x

    def resample(self, name: str, x: Tensor) -> Tensor:
        """What leads to the next level, if there is one."""
        y: Tensor = self.get_submodule(name)(x) if hasattr(self, name) else x
        return y


class Middle(nn.Module):
    """The blocks of the lowest resolution that both sides have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Residual(width, width), Attention(width), Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class Encoder(nn.Module):
    """Features [B, latent, H / 2^(n-1), W / 2^(n-1)] of [B, colours, H, W], by n levels of `widths`."""

    def __init__(self, widths: Sequence[int], blocks: int, latent: int, colours: int = 3) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = _conv(colours, widths[0])
        self.down = nn.ModuleList()
        for n, width in enumerate(widths):
            level = Level([widths[max(n - 1, 0)], *[width] * blocks], attend=n == last)
            if n < last:
                level.downsample = Resample(width, up=False)
            self.down.append(level)
        self.mid, self.norm_out, self.conv_out = Middle(widths[-1]), _norm(widths[-1]), _conv(widths[-1], latent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in cast(Iterable[Level], self.down):
            x = level(x)
            x = level.resample("downsample", x)
        y: Tensor = self.conv_out(nn.functional.silu(self.norm_out(self.mid(x))))
        return y


class Decoder(nn.Module):
    """[B, colours, H, W] of features [B, latent, H / 2^(n-1), W / 2^(n-1)]; it has one block a level more than the encoder."""

    def __init__(self, widths: Sequence[int], blocks: int, latent: int, colours: int = 3) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in, self.mid = _conv(latent, widths[-1]), Middle(widths[-1])
        self.up = nn.ModuleList()
        for n, width in enumerate(widths):
            level = Level([widths[min(n + 1, last)], *[width] * (blocks + 1)], attend=n == last)
            if n > 0:
                level.upsample = Resample(width, up=True)
            self.up.append(level)
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], colours)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(cast(Sequence[Level], self.up)):
            x = level(x)
            x = level.resample("upsample", x)
        y: Tensor = self.conv_out(nn.functional.silu(self.norm_out(x)))
        return y


class Linear(nn.Module):
    """In place of an encoder, which no published file has: a linear map at each place."""

    def __init__(self, latent: int, colours: int) -> None:
        super().__init__()
        self.conv_in = _conv(colours, latent, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_in(x)
        return y


def widths_of(weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int]:
    """Width of each level and blocks a level, counted as the encoder's, of the decoder in a VQVAE's weights."""
    blocks = [key.split(".") for key in weights if key.startswith("decoder.up.") and key.endswith("conv2.weight")]
    levels = 1 + max((int(parts[2]) for parts in blocks), default=-1)
    each = max((int(parts[4]) for parts in blocks), default=0)
    return tuple(weights[f"decoder.up.{n}.block.0.conv2.weight"].shape[0] for n in range(levels)), each
