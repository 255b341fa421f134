"""Two predictors, one for what is coarse in a feature and one for what is fine."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import RecipeError
from ..history import History
from ..types import Observation
from .base import Predictor


@dataclass(frozen=True, slots=True)
class FrequencySplit(Predictor):
    """`low` forecasts the frequencies up to `cutoff` times the highest, `high` the others; the two bands are orthogonal.

    FreqCa (arXiv:2510.08669) is FrequencySplit(Hold(), Hermite(2, 0.71)) on the residual of the whole stack: the low band is
    held, the high one forecast. Its code splits tokens [B, L, D] by an FFT along L for Qwen-Image, as is done here, and
    by a two-dimensional DCT of the image for FLUX; here images [B, C, (F,) H, W] are split by a radial FFT over H and W.
    """

    low: Predictor
    high: Predictor
    cutoff: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.cutoff <= 1.0:
            raise RecipeError(f"FrequencySplit takes a cutoff from 0 to 1, a share of the highest frequency, not {self.cutoff}.")

    @property
    def depth(self) -> int:
        return max(self.low.depth, self.high.depth)

    @property
    def keeps_probes(self) -> bool:
        return self.low.keeps_probes or self.high.keeps_probes

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        coarse, fine = (inner.predict(history, seen, wide) for inner in (self.low, self.high))
        return (fine + low_pass(coarse - fine, self.cutoff)).to(x.dtype)


def low_pass(x: Tensor, cutoff: float) -> Tensor:
    """The frequencies of `x` up to `cutoff` times the highest: over the last two dimensions of [B, C, (F,) H, W], else over dim 1.

    An orthogonal projection of each row: low_pass(x) and x - low_pass(x) add up to x and have no frequency in common.
    """
    dims = (-2, -1) if x.ndim > 3 else (1,)
    sizes = [x.shape[dim] for dim in dims]
    kept = _kept(tuple(sizes), cutoff, x.device)
    if x.ndim <= 3:
        kept = kept.view(-1, *[1] * (x.ndim - 2))
    result: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims) * kept, s=sizes, dim=dims)
    return result


@lru_cache(maxsize=32)
def _kept(sizes: tuple[int, ...], cutoff: float, device: torch.device) -> Tensor:
    """Which frequencies of a real FFT over dimensions of these sizes are low; one at the cutoff itself is."""
    axes = [torch.fft.fftfreq(size, dtype=torch.float64) for size in sizes[:-1]]
    axes.append(torch.fft.rfftfreq(sizes[-1], dtype=torch.float64))
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return (radius <= cutoff * radius.max() + 1e-9).to(device)
