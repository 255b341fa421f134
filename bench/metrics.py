"""How near a picture or clip is to the uncached one of the same noise, and how well a set of them fits the world."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import torch
from einops import rearrange
from torch import Tensor

from ..demo import codec, judge
from ..demo.agreement import HELD_OUT, judged
from ..demo.agreement import score as agreement
from ..demo.judge.network import CODE
from ..demo.skip.classes import NONE, draw
from ..demo.world import FRAMES, Scene, draw_scene, render
from ..launch.quality import psnr, ssim

FRESH = 256  # pictures or clips that the world itself draws, for Frechet distances
_CHUNK = 100  # resamples whose matrices are held at once


@dataclass(frozen=True, slots=True)
class Score:
    """One prompt's result against the uncached one. `features` [J, 240] are the judge's, of the J frames it looks at."""

    psnr_db: float
    ssim: float
    judge_distance: float
    agreement: float  # 0..1, with the prompt; the only one that does not look at the uncached result
    features: Tensor


def score(family: str, scene: Scene, frames: Tensor, uncached: Tensor) -> Score:
    """Compare frames [F, 64, 64, 3] in 0..1 with the uncached ones. PSNR is over all frames, SSIM and distance are means."""
    rate = agreement(family, frames[None], [scene])["all"]["mean"]
    return Score(**fidelity(frames, uncached), agreement=rate, features=features_of(frames))


def fidelity(frames: Tensor, uncached: Tensor) -> dict[str, float]:
    """What compares frames [F, 64, 64, 3] in 0..1 with the uncached ones, by the names that a score has for it."""
    ours, theirs = (255 * part.double().numpy() for part in (frames, uncached))  # not rounded: at 55 dB the rounding would show
    near = fmean(ssim(a, b) for a, b in zip(ours, theirs, strict=True))
    return {"psnr_db": psnr(ours, theirs), "ssim": near, "judge_distance": judge_distance(frames, uncached)}


def features_of(frames: Tensor) -> Tensor:
    """The judge's features [J, 240] of the frames [F, 64, 64, 3] that it looks at."""
    return judge.features(torch.cat(list(judged(frames[None]).values())))


def judge_distance(frames: Tensor, uncached: Tensor) -> float:
    """Measure ||a / |a| - b / |b|||^2, mean over the judge's ten codes of each frame and over frames [F, 64, 64, 3]; 0 to 4.

    That is LPIPS's distance (arXiv:1801.03924, eq. 1) without its learnt weights, on one layer of the shapes world's judge.
    """
    pictures = judge.as_pictures(torch.stack([frames, uncached]))
    codes = torch.nn.functional.normalize(rearrange(judge.features(pictures), "n (codes width) -> n codes width", width=CODE), dim=-1)
    ours, theirs = codes.chunk(2)
    return float((ours - theirs).square().sum(-1).mean())


@cache
def fresh(family: str) -> Tensor:
    """Features [FRESH * J, 240] of the world's own pictures or clips, through the codec, always the same."""
    rng = random.Random(HELD_OUT + 1)
    moving = family == "wan"
    labelled = family.startswith("dit")
    scenes = [draw(n % NONE, rng) if labelled else draw_scene(rng, moving) for n in range(FRESH)]
    frames = codec.decode(codec.encode(render(scenes, rng, FRAMES if moving else 1)))
    return judge.features(torch.cat(list(judged(frames).values())))


def stacked(scores: Sequence[Score]) -> Tensor:
    """Features of all prompts, [N * J, 240], a prompt's frames side by side."""
    return torch.cat([one.features for one in scores])


def rows_of(draws: Tensor, frames: int) -> Tensor:
    """Rows of `stacked` that draws [S, N] of prompts with J = `frames` stand for: [S, N * J]."""
    return (draws[..., None] * frames + torch.arange(frames)).flatten(1)


def frechets(a: Tensor, b: Tensor, draws: Tensor, *, paired: bool) -> Tensor:
    """Frechet distance of rows draws[s] of features a [N, D] from b [M, D], for each of the draws [S, n]: [S], in float64.

    If `paired`, the same rows of b are drawn, else all of them count. It is judge.frechet's number: with A and B the centred
    rows, C_a = A'A / (n - 1), the root's trace is the sum of the singular values of AB' / sqrt((n - 1)(m - 1)), so a resample
    picks entries of one matrix.
    """
    a, b = a.double(), b.double()
    products = a @ b.T
    return torch.cat([_frechets(a, b, products, part, paired) for part in torch.split(draws, _CHUNK)])


def _frechets(a: Tensor, b: Tensor, products: Tensor, rows: Tensor, paired: bool) -> Tensor:
    ours, theirs = a[rows], b[rows] if paired else b[None]
    cross = products[rows[:, :, None], rows[:, None, :]] if paired else products[rows]
    centred = cross - cross.mean(1, keepdim=True) - cross.mean(2, keepdim=True) + cross.mean((1, 2), keepdim=True)
    apart = (ours.mean(1) - theirs.mean(1)).square().sum(1)
    scale = ((cross.shape[1] - 1) * (cross.shape[2] - 1)) ** 0.5
    found: Tensor = apart + _variance(ours) + _variance(theirs) - 2 * _roots(centred) / scale
    return found.clamp_min(0)  # equal sets may come out a rounding below


def _roots(matrices: Tensor) -> Tensor:
    """Sum of the singular values of matrices [S, n, m]: [S]. Wide ones go by their Gram matrix, which is much faster."""
    if matrices.shape[1] == matrices.shape[2]:
        values: Tensor = torch.linalg.svdvals(matrices)
    else:
        values = torch.linalg.eigvalsh(matrices @ matrices.mT).clamp_min(0).sqrt()
    total: Tensor = values.sum(1)
    return total


def _variance(rows: Tensor) -> Tensor:
    """Trace of the covariance of rows [S, n, D]: [S]."""
    centred: Tensor = rows - rows.mean(1, keepdim=True)
    return centred.square().sum((1, 2)) / (rows.shape[1] - 1)
