"""A latent's coarse and fine parts: projections onto means over square blocks of pixels, which are orthogonal and nested.

A block of a clip may span frames too. Bands along time made no forecast better (docs/notes.md; `./encore bench ablations --model wan`
has a row of them), so LEVELS are those of a single frame.
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
    return _spread(_pooled(x, level), _side(level))[..., : x.shape[-2], : x.shape[-1]]


def split(x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Bands [len(levels) + 1, ...] of `x` [..., (F,) H, W], finest first, orthogonal, with the sum `x`. Levels divide one another."""
    coarser = [x, *(block_means(x, level) for level in levels)]
    return torch.stack([a - b for a, b in zip(coarser, [*coarser[1:], torch.zeros_like(x)], strict=True)])


def join(parts: Sequence[Tensor] | Tensor, levels: Sequence[Level]) -> Tensor:
    """What has band k of the sum of `parts[: k + 1]`, each [..., (F,) H, W]: the first, written into, and of each other its block means."""
    coarse, side = None, 1
    for level, part in reversed(list(zip(levels, parts[1:], strict=False))):
        means = _pooled(part, level)
        coarse = means if coarse is None else _add(means, coarse, side // _side(level))
        side = _side(level)
    return parts[0] if coarse is None else _add(parts[0], coarse, side)


def _side(level: Level) -> int:
    return level if isinstance(level, int) else level[0]


def _pooled(x: Tensor, level: Level) -> Tensor:
    """Means over blocks, [..., (F,) H / side, W / side] rounded up; blocks over frames give each of them the same."""
    means = torch.nn.functional.avg_pool2d(x.reshape(-1, 1, *x.shape[-2:]), _side(level), ceil_mode=True, count_include_pad=False)
    means = means.view(*x.shape[:-2], *means.shape[-2:])
    if isinstance(level, int):
        return means
    spans = [means[..., first : first + level[1], :, :] for first in range(0, x.shape[-3], level[1])]
    return torch.cat([span.mean(-3, keepdim=True).expand_as(span) for span in spans], -3)


def _spread(means: Tensor, side: int) -> Tensor:
    """Each number of `means` [..., H, W] over a block of its own, [..., H * side, W * side]."""
    *before, height, width = means.shape
    return means[..., :, None, :, None].expand(*before, height, side, width, side).reshape(*before, height * side, width * side)


def _add(fine: Tensor, coarse: Tensor, side: int) -> Tensor:
    """`fine` [..., H, W] plus, spread over blocks, `coarse` [..., H / side, W / side] rounded up; the former is written into."""
    *before, height, width = fine.shape
    if height % side or width % side:
        return fine.add_(_spread(coarse, side)[..., :height, :width])
    fine.view(*before, height // side, side, width // side, side).add_(coarse[..., :, None, :, None])
    return fine


def as_rows(x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Bands [len(levels) + 1, B, numbers] of a latent [B, C, (F,) H, W], float32. Raises CacheError for frames of a picture."""
    if x.ndim < 5 and not all(isinstance(level, int) for level in levels):
        raise CacheError(f"Blocks {tuple(levels)} span frames, and a latent of shape {tuple(x.shape)} has none. Use {LEVELS}.")
    return rearrange(split(x.float(), levels), "g b ... -> g b (...)")


def listed(levels: Sequence[int | Sequence[int]]) -> tuple[Level, ...]:
    """Levels as JSON gives them back."""
    return tuple(level if isinstance(level, int) else (level[0], level[1]) for level in levels)
