"""An alignment weighed at the end of whole samplings: how much of each of its parts is best there. Ours.

Predictions may come nearer at every step and the end may not: what is left of their errors is alike from step to step and adds
up, and a fit to single steps does not know it. So each part of an alignment, some blocks at some noise levels, is left out of a
sampling once, which shows what it does to the end. The gains of all parts are then a small least-squares problem: the end is the
uncached one, and what the parts do to it is taken to add up. A gain above 1 repays what single steps could not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from .align import Alignment

T = TypeVar("T")
LAYERS, BANDS = 6, 3  # groups of blocks and of noise levels at most; a part is one of each
ENOUGH = 8  # prompts that tell so many parts apart; fewer have fewer groups of blocks
TRIALS = LAYERS * BANDS + 4  # samplings that this takes at most: uncached, by all parts, by none, without each, and as weighed
RIDGES = tuple(10.0**power for power in range(-3, 3))  # pulls of the gains towards 1, times the parts' mean square
TINY = torch.finfo(torch.float32).tiny


def weighed(alignment: Alignment, uncached: Tensor, cached: Callable[[Alignment], Tensor]) -> Alignment:
    """The alignment with its rows times the gains that are best for prompts that it was not made from.

    `cached` samples these prompts by an alignment, `uncached` [B, ...] is their end without a cache; each of them counts alike. An
    alignment whose gains do no better than all of it or none of it is kept as it is, or becomes zero. `about` tells the gains.
    """
    parts = parts_of(alignment, len(uncached))
    every, none = torch.ones(len(parts)), torch.zeros(len(parts))
    ends = {gains: cached(scaled(alignment, parts, gains)) for gains in (every, none)}
    if len(uncached) > 1:
        without = [cached(scaled(alignment, parts, 1.0 - one)) for one in torch.eye(len(parts))]
        best = every + _more(ends[every], without, uncached, ends[none])
        ends[best] = cached(scaled(alignment, parts, best))
    size = _squares(ends[none] - uncached)
    return scaled(alignment, parts, min(ends, key=lambda gains: _error(ends[gains] - uncached, size)))


def _more(whole: Tensor, without: Sequence[Tensor], uncached: Tensor, plain: Tensor) -> Tensor:
    """`more` of the ends [B, ...] of samplings by all parts, without each part, without a cache, and without an alignment."""
    unit = _squares(plain - uncached).clamp_min(TINY).rsqrt()
    effects = torch.stack([whole - end for end in without], 1).double().flatten(2) * unit[:, None, None]
    missing = (uncached - whole).double().flatten(1) * unit[:, None]
    return more(effects @ effects.mT, (effects @ missing[..., None]).squeeze(-1), missing.square().sum(1)).float().cpu()


def more(normal: Tensor, against: Tensor, left: Tensor) -> Tensor:
    """What to add to gains of 1, [P]: the ridge solution that does best for prompts left out of it, 0 if none does any good.

    For each of B prompts `normal` [B, P, P] and `against` [B, P] are the products of what the P parts do with itself and with what
    is missing, and `left` [B] is the square of that.
    """
    best, score = torch.zeros_like(against[0]), float(left.log().mean())
    for ridge in RIDGES:
        others = [_solved(normal.sum(0) - normal[n], against.sum(0) - against[n], ridge) for n in range(len(left))]
        gained = [2.0 * one @ against[n] - one @ normal[n] @ one for n, one in enumerate(others)]
        found = float((left - torch.stack(gained)).clamp_min(TINY).log().mean())
        if found < score:
            best, score = _solved(normal.sum(0), against.sum(0), ridge), found
    return best


def parts_of(alignment: Alignment, prompts: int = ENOUGH) -> Tensor:
    """Which cells belong to each part, [parts, cells] of 0 and 1; each cell to one, and none is empty."""
    blocks = _groups(sorted({block for block, _ in alignment.cells}), max(1, min(prompts * LAYERS // ENOUGH, LAYERS)))
    levels = _groups(sorted({sigma for _, sigma in alignment.cells}, reverse=True), BANDS)
    found = [[float(block in some and sigma in band) for block, sigma in alignment.cells] for some in blocks for band in levels]
    return torch.tensor([part for part in found if any(part)])


def scaled(alignment: Alignment, parts: Tensor, gains: Tensor) -> Alignment:
    """The alignment with the rows of each part [parts, cells] times its gain [parts]; `about` tells them."""
    rows = alignment.rows * (gains @ parts).to(alignment.rows)[:, None, None]
    return replace(alignment, rows=rows, about={**alignment.about, "gains": [round(gain, 3) for gain in gains.tolist()]})


def _groups(values: Sequence[T], most: int) -> list[frozenset[T]]:
    """Neighbours together, in `most` groups of about one size, or fewer."""
    count = min(most, len(values))
    return [frozenset(values[n * len(values) // count : (n + 1) * len(values) // count]) for n in range(count)]


def _solved(normal: Tensor, against: Tensor, ridge: float) -> Tensor:
    pull = ridge * normal.diagonal().mean().clamp_min(TINY)
    found: Tensor = torch.linalg.solve(normal + pull * torch.eye(len(normal), dtype=normal.dtype, device=normal.device), against)
    return found


def _squares(gap: Tensor) -> Tensor:
    """Sum of squares of each sample [B]."""
    return gap.double().flatten(1).square().sum(1)


def _error(gap: Tensor, size: Tensor) -> float:
    """Mean over the prompts of the logarithm of their squared error, next to that without an alignment."""
    return float((_squares(gap) / size.clamp_min(TINY)).clamp_min(TINY).log().mean())
