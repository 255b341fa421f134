"""A latent's coarse and fine parts: projections onto means over square blocks of pixels, which are orthogonal and nested.

Frames of a clip are split each by itself: bands along time as well made no forecast better (docs/notes.md).
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

LEVELS = (2, 4)  # pixels of a block's side; with the rest that makes three bands


def block_means(x: Tensor, side: int) -> Tensor:
    """`x` [..., H, W] with each pixel replaced by the mean of its block of `side` x `side`; blocks at the edges may be cut."""
    height, width = x.shape[-2:]
    flat = x.reshape(-1, 1, height, width)
    means = torch.nn.functional.avg_pool2d(flat, side, ceil_mode=True, count_include_pad=False)
    large = means.repeat_interleave(side, -2).repeat_interleave(side, -1)[..., :height, :width]
    return large.reshape(x.shape)


def split(x: Tensor, levels: Sequence[int]) -> Tensor:
    """Bands [len(levels) + 1, ...] of `x` [..., H, W], finest first, which add up to `x` and are orthogonal. Levels divide one another."""
    coarser = [x, *(block_means(x, side) for side in levels)]
    return torch.stack([a - b for a, b in zip(coarser, [*coarser[1:], torch.zeros_like(x)], strict=True)])


def join(parts: Sequence[Tensor], levels: Sequence[int]) -> Tensor:
    """What has band k of `parts[k]` [..., H, W], finest first: the sum of their projections."""
    result = parts[0]
    for side, fine, coarse in zip(levels, parts, parts[1:], strict=False):
        result = result + block_means(coarse - fine, side)
    return result


def as_rows(x: Tensor, levels: Sequence[int]) -> Tensor:
    """Bands [len(levels) + 1, B, numbers] of a latent [B, C, (F,) H, W], flattened in float32."""
    return rearrange(split(x.float(), levels), "g b ... -> g b (...)")
