"""A fixed latent codec: 4x4 block cosine transform of luma and chroma, a third of it kept and evened out."""

import math

import torch
from einops import rearrange
from torch import Tensor

BLOCK = 4  # pixels of a block's side
KEPT = (8, 4, 4)  # coefficients kept of luma and of the two chroma channels: 16 latent channels
WHITENING = 0.7  # 0 keeps the coefficients' own sizes, 1 makes them equal; between, coarse detail leads fine detail
# Mean and deviation of each coefficient over the shapes world, printed by `python -m demo.codec`.
MEAN = (1.7794, 0.0, -0.007, 0.0, 0.0, 0.0, 0.0, 0.0, -0.2186, 0.0, 0.0, 0.0, 0.0152, 0.0, 0.0, 0.0)
STD = (0.9742, 0.1733, 0.1723, 0.0877, 0.1293, 0.0886, 0.0478, 0.0763, 0.5761, 0.1007, 0.1013, 0.0459, 0.3052, 0.0626, 0.0628, 0.0288)

_COLOUR = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
COLOUR = _COLOUR / _COLOUR.norm(dim=1, keepdim=True)  # rows: luma, red - blue, green - magenta; orthonormal


def cosine_basis() -> Tensor:
    """Orthonormal 2-D DCT-II basis, rows in order of rising frequency, [BLOCK^2, BLOCK^2]."""
    k = torch.arange(BLOCK)
    line = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    line[0] /= math.sqrt(2)
    order = sorted(((i, j) for i in range(BLOCK) for j in range(BLOCK)), key=lambda ij: (sum(ij), ij))
    return torch.stack([torch.outer(line[i], line[j]).flatten() for i, j in order])


def transform(pictures: Tensor) -> Tensor:
    """Coefficients [N, 16, F, H/4, W/4] of pictures [N, F, H, W, 3] in 0..1, before scaling."""
    colours = torch.einsum("kc,nfhwc->nfkhw", COLOUR.to(pictures), pictures)
    blocks = rearrange(colours, "n f k (h a) (w b) -> n k f h w (a b)", a=BLOCK, b=BLOCK)
    parts = torch.einsum("sp,nkfhwp->nksfhw", cosine_basis().to(pictures), blocks)
    return torch.cat([parts[:, k, :kept] for k, kept in enumerate(KEPT)], 1)


def encode(pictures: Tensor) -> Tensor:
    """Latent [N, 16, F, H/4, W/4], of mean 0 and deviation 1 over the world, of pictures [N, F, H, W, 3] in 0..1."""
    z = transform(pictures)
    mean, size = _scaling(z)
    return (z - mean) / size


def _scaling(like: Tensor) -> tuple[Tensor, Tensor]:
    """What to subtract from and divide coefficients by, each [16, 1, 1, 1]."""
    mean, std = (torch.tensor(v).to(like)[:, None, None, None] for v in (MEAN, STD))
    size = std**WHITENING
    return mean, size * (std / size).square().mean().sqrt()


def decode(latent: Tensor) -> Tensor:
    """Pictures [N, F, H, W, 3] in 0..1 of a latent [N, 16, F, H/4, W/4]: the transpose of the orthonormal transform."""
    mean, size = _scaling(latent)
    parts = torch.split(latent * size + mean, list(KEPT), dim=1)
    basis = cosine_basis().to(latent)
    blocks = torch.stack([torch.einsum("nsfhw,sp->nfhwp", part, basis[: part.shape[1]]) for part in parts], 1)
    colours = rearrange(blocks, "n k f h w (a b) -> n f k (h a) (w b)", a=BLOCK, b=BLOCK)
    return torch.einsum("kc,nfkhw->nfhwc", COLOUR.to(latent), colours).clamp(0, 1)


def _measure() -> None:
    import random

    from .world import draw_scene, render

    rng = random.Random(0)
    pictures = render([draw_scene(rng) for _ in range(1024)], rng)
    parts = transform(pictures)
    print("MEAN =", tuple(round(v, 4) for v in parts.mean((0, 2, 3, 4)).tolist()))
    print("STD =", tuple(round(v, 4) for v in parts.std((0, 2, 3, 4)).tolist()))
    error = (decode(encode(pictures)) - pictures).square().mean((1, 2, 3, 4))
    print(f"PSNR of a round trip: {(-10 * error.log10()).mean():.1f} dB")


if __name__ == "__main__":
    _measure()
