"""The prediction without the prompt, from the one with it (FasterCache's CFG-Cache)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import RecipeError
from ..history import History
from ..types import Observation, Schedule
from .base import Predictor

TIMESTEPS = 1000.0  # the authors' timesteps at noise level 1


@dataclass(frozen=True, slots=True)
class GuidanceBands(Predictor):
    """The last difference of the two predictions, low and high frequencies apart, each growing while it is held.

    FasterCache (arXiv:2410.19355), eq. 9 to 11, for the site uncond and the residual: at every reused step the low band is
    multiplied by `low` at timesteps inside `low_range`, the high band by `high` inside `high_range`, a timestep being 1000
    sigma. Numbers and the split are those of diffusers: the two-dimensional FFT of each frame, low being the frequencies
    within a fifth of the shorter side, in whole waves. Steps are counted on the schedule, not calls of the model.
    """

    low: float = 1.1
    high: float = 1.1
    low_range: tuple[float, float] = (99.0, 901.0)
    high_range: tuple[float, float] = (-1.0, 301.0)

    def __post_init__(self) -> None:
        if not (0.0 < self.low < 10.0 and 0.0 < self.high < 10.0):
            raise RecipeError(f"GuidanceBands takes factors above 0 and below 10, not {self.low} and {self.high}; 1.1 is published.")

    @property
    def depth(self) -> int:
        return 1

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        kept, newest, schedule = history.combine([1.0], wide), history.times[-1], seen.step.schedule
        steps = range(schedule.index(newest) + 1, seen.step.index + 1)
        low, high = self._factor(self.low, self.low_range, steps, schedule), self._factor(self.high, self.high_range, steps, schedule)
        coarse = low_waves(kept)
        return (low * coarse + high * (kept - coarse)).to(x.dtype)

    @staticmethod
    def _factor(factor: float, inside: tuple[float, float], steps: range, schedule: Schedule) -> float:
        return float(factor ** sum(inside[0] < TIMESTEPS * schedule.sigmas[step] < inside[1] for step in steps))


def low_waves(x: Tensor) -> Tensor:
    """The frequencies of each frame of `x` [..., H, W] within min(H, W) // 5 whole waves a side."""
    height, width = x.shape[-2:]
    result: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * _low(height, width, x.device), s=(height, width))
    return result


@lru_cache(maxsize=32)
def _low(height: int, width: int, device: torch.device) -> Tensor:
    rows, columns = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    inside: Tensor = rows[:, None].square() + columns.square() <= (min(height, width) // 5) ** 2 + 1e-6
    return inside.to(device)
