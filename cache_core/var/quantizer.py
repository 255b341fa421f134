"""Multi-scale residual quantisation: a feature map as a sum of token maps from coarse to fine (arXiv 2404.02905, alg. 1 and 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .scales import Scales

RESIDUAL = 0.5  # share of the convolution in Phi
COMMITMENT = 0.25


class Phi(nn.Conv2d):
    """What an enlarged token map goes through before it is added: `h / 2 + conv(h) / 2`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return (1 - RESIDUAL) * h + RESIDUAL * super().forward(h)


class _SharedPhi(nn.Module):
    """A few Phi for all scales, each for those near its tick in 0..1."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Phi(channels) for _ in range(count))
        edge = 1 / (3 if count == 4 else 2) / count  # as published
        self.ticks = torch.linspace(edge, 1 - edge, count, dtype=torch.float64).tolist()

    def at(self, past: float) -> nn.Module:
        """The Phi nearest to a place in 0..1; of two equally near ones the first."""
        return self.qresi_ls[min(range(len(self.ticks)), key=lambda n: abs(self.ticks[n] - past))]


class Quantizer(nn.Module):
    """A codebook of `words` vectors of `channels`, shared by all scales."""

    ema_vocab_hit_SV: Tensor

    def __init__(self, words: int, channels: int, phis: int = 4, counted: int = 10) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, channels)
        self.quant_resi = _SharedPhi(channels, phis)
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(counted, words))

    def enlarged(self, scales: Scales, scale: int, words: Tensor) -> Tensor:
        """What a token map adds to the features, [B, C, S, S]: of words [B, side^2] of a scale, S the finest side."""
        side, full = scales.sides[scale], scales.sides[-1]
        h = self.embedding(words).transpose(1, 2).unflatten(2, (side, side))
        if side != full:
            h = nn.functional.interpolate(h, (full, full), mode="bicubic")
        y: Tensor = self.quant_resi.at(scales.past(scale))(h)
        return y

    def shrunk(self, scales: Scales, scale: int, features: Tensor) -> Tensor:
        """Features [B, C, S, S] seen at a scale, as tokens [B, side^2, C]: the transformer's input there."""
        side = scales.sides[scale]
        return nn.functional.interpolate(features, (side, side), mode="area").flatten(2).transpose(1, 2)

    def nearest(self, tokens: Tensor) -> Tensor:
        """The words [...] nearest to tokens [..., C]."""
        book = self.embedding.weight
        distance = book.square().sum(-1) - 2 * tokens @ book.T
        return distance.argmin(-1)

    def forward(self, scales: Scales, features: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Encode features [B, C, S, S]: words of each scale [B, side^2], their sum with a straight-through gradient, and the loss.

        The loss is the mean over scales of |f_hat_k - sg(f)|^2 + 0.25 |sg(f_hat_k) - f|^2, as published.
        """
        target = features.detach()
        built, words, losses = torch.zeros_like(target), [], []
        for scale in range(len(scales)):
            words.append(self.nearest(self.shrunk(scales, scale, target - built.detach()).detach()))
            built = built + self.enlarged(scales, scale, words[-1])
            losses.append((built - target).square().mean() + COMMITMENT * (built.detach() - features).square().mean())
        return words, features + (built - features).detach(), torch.stack(losses).mean()

    def inputs(self, scales: Scales, words: Sequence[Tensor]) -> Tensor:
        """What a transformer is shown of a picture in training: tokens [B, L - 1, C] of scales 1 and up, from its words."""
        built, seen = torch.zeros((), device=words[0].device), []
        for scale in range(len(scales) - 1):
            built = built + self.enlarged(scales, scale, words[scale])
            seen.append(self.shrunk(scales, scale + 1, built))
        return torch.cat(seen, 1)
