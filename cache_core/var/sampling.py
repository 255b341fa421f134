"""How words are drawn from logits: guidance that grows from scale to scale, top-k, top-p, temperature."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CacheError
from .scales import Scales

LEVELLED = 0.7  # share of the scales that CoDe samples at its higher temperature: 7 of 10


@dataclass(frozen=True, slots=True)
class Sampling:
    """VAR's published settings by default (its demo, arXiv 2404.02905)."""

    cfg: float = 1.5  # guidance at the last scale; it rises from 0 at the first
    top_k: int = 900  # words left; 0 leaves all
    top_p: float = 0.96  # probability left of these; 0 leaves all
    temperature: float = 1.0  # of the coarse scales, up to LEVELLED of all; the finer ones have 1

    def __post_init__(self) -> None:
        if self.cfg < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1 or self.temperature <= 0:
            raise CacheError(f"Sampling needs cfg >= 0, top_k >= 0, 0 <= top_p <= 1 and temperature > 0; found {self}.")

    def heat(self, scale: int, count: int) -> float:
        """Temperature of a scale of `count`."""
        return self.temperature if scale < round(LEVELLED * count) else 1.0


CODE = Sampling(cfg=1.5, top_k=600, top_p=0.96, temperature=1.1)  # CoDe's evaluation (2411.17787); its demo: cfg 4, top_p 0.95


def draws(seed: int, scales: Scales, pictures: int) -> Tensor:
    """A number in 0..1 for each token [pictures, L]: all the chance in a sampling.

    It is made on the processor, so that every device has the same, and a picture's is the same however many follow it.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(pictures, scales.tokens, generator=generator)


def guided(logits: Tensor, strength: float) -> Tensor:
    """`(1 + t) conditional - t unconditional`, [B, l, V] of both below one another [2 B, l, V]."""
    with_class, without = logits.chunk(2)
    return (1 + strength) * with_class - strength * without


def pick(logits: Tensor, draw: Tensor, settings: Sampling, heat: float = 1.0) -> Tensor:
    """Words [B, l] of logits [B, l, V]: the inverse of the cumulative distribution at draws [B, l].

    As published, top-k and then top-p are taken at temperature 1, and `heat` applies to what they leave. The published code draws with
    torch.multinomial, which has the same distribution but takes V random numbers a token.
    """
    ranked, words = logits.topk(min(settings.top_k or logits.shape[-1], logits.shape[-1]), -1)
    if settings.top_p > 0:
        chances = ranked.softmax(-1)
        before = chances.cumsum(-1) - chances
        ranked = ranked.masked_fill((before >= settings.top_p) & (before > 0), -torch.inf)
    sums = (ranked / heat).softmax(-1).cumsum(-1)
    rank = (sums <= draw[..., None] * sums[..., -1:]).sum(-1, keepdim=True)
    # A draw of almost 1 may round up to the whole sum: then the last word that is left.
    last = (ranked > -torch.inf).sum(-1, keepdim=True) - 1
    return words.gather(-1, rank.minimum(last))[..., 0]
