"""A latent's coarse and fine parts: projections onto means over square blocks of pixels, which are orthogonal and nested.

A block of a clip may span frames too. What bands along time gain is measured by `./encore bench ablations --model wan`, and it is
nothing (docs/trace.md), so LEVELS are those of a single frame.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..errors import CacheError

Level = int | tuple[int, int]  # pixels of a block's side, or with it the frames of a block
LEVELS: tuple[Level, ...] = (2, 4)  # with the rest that makes three bands
TIMED: tuple[Level, ...] = (*LEVELS, (4, 8))  # the coarsest of them in two, along time


def block_means(x: Tensor, level: Level) -> Tensor:
    """`x` [..., (F,) H, W] with each pixel replaced by the mean of its block; blocks at the edges may be cut."""
    side, frames = level if isinstance(level, tuple) else (level, 1)
    height, width = x.shape[-2:]
    flat = x.reshape(-1, 1, height, width)
    means = torch.nn.functional.avg_pool2d(flat, side, ceil_mode=True, count_include_pad=False)
    large = means.repeat_interleave(side, -2).repeat_interleave(side, -1)[..., :height, :width].reshape(x.shape)
    if frames == 1:
        return large
    spans = [large[..., first : first + frames, :, :] for first in range(0, x.shape[-3], frames)]
    return torch.cat([span.mean(-3, keepdim=True).expand_as(span) for span in spans], -3)


def split(x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Bands [len(levels) + 1, ...] of `x` [..., (F,) H, W], finest first, orthogonal, with the sum `x`. Levels divide one another."""
    coarser = [x, *(block_means(x, level) for level in levels)]
    return torch.stack([a - b for a, b in zip(coarser, [*coarser[1:], torch.zeros_like(x)], strict=True)])


def join(parts: Sequence[Tensor], levels: Sequence[Level]) -> Tensor:
    """What has band k of `parts[k]` [..., (F,) H, W], finest first: the sum of their projections."""
    result = parts[0]
    for level, fine, coarse in zip(levels, parts, parts[1:], strict=False):
        result = result + block_means(coarse - fine, level)
    return result


def as_rows(x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Bands [len(levels) + 1, B, numbers] of a latent [B, C, (F,) H, W], float32. Raises CacheError for frames of a picture."""
    if x.ndim < 5 and not all(isinstance(level, int) for level in levels):
        raise CacheError(f"Blocks {tuple(levels)} span frames, and a latent of shape {tuple(x.shape)} has none. Use {LEVELS}.")
    return rearrange(split(x.float(), levels), "g b ... -> g b (...)")


def listed(levels: Sequence[int | Sequence[int]]) -> tuple[Level, ...]:
    """Levels as JSON gives them back."""
    return tuple(level if isinstance(level, int) else (level[0], level[1]) for level in levels)
