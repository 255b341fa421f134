"""What a model's sampling looks like, as far as linear forecasts are concerned: inner products along uncached trajectories."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import CacheError
from ..types import Schedule
from .bands import Level, as_rows

Array = npt.NDArray[np.float64]
NODES = 4  # recorded levels that one between them is interpolated from


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Inner products, mean over trajectories and numbers, of the starting noise and the velocities at `sigmas`.

    `gram` [bands, N + 1, N + 1]: row 0 is the starting latent, row 1 + n the guided velocity at the n-th of the N noise levels
    `sigmas`, noisiest first. `levels` are those of `bands.split`. `end` is the noise level that the sampling ended at.
    A whole model is some 60 kB, whatever the size of its latents.
    """

    sigmas: tuple[float, ...]
    gram: Array
    levels: tuple[Level, ...] = ()
    end: float = 0.0
    trajectories: int = 1

    def __post_init__(self) -> None:
        size = len(self.sigmas) + 1
        if self.gram.shape != (len(self.levels) + 1, size, size):
            raise CacheError(f"Statistics of {size - 1} noise levels and levels {self.levels} have a gram of shape {self.gram.shape}.")
        if not np.isfinite(self.gram).all() or any(a <= b for a, b in zip(self.sigmas, [*self.sigmas[1:], self.end], strict=True)):
            raise CacheError("Statistics need finite inner products and noise levels that fall. Record them again.")

    @classmethod
    def of(
        cls, start: Tensor, velocities: Sequence[Tensor], sigmas: Sequence[float], levels: tuple[Level, ...], end: float
    ) -> "Statistics":
        """From one uncached sampling of a batch: its starting latent and its velocities, each [B, C, (F,) H, W]."""
        rows = torch.stack([as_rows(part, levels) for part in (start, *velocities)], 2).double()  # [bands, B, N + 1, numbers]
        gram = torch.einsum("gbnx,gbmx->gnm", rows, rows) / (rows.shape[1] * rows.shape[3])
        return cls(tuple(sigmas), gram.numpy(), levels, end, len(start))

    def and_(self, other: "Statistics") -> "Statistics":
        """Both together, each with the weight of its trajectories. They must have the same noise levels and bands."""
        if self.levels != other.levels or len(self.sigmas) != len(other.sigmas) or not np.allclose(self.sigmas, other.sigmas, atol=1e-4):
            raise CacheError("Statistics of different schedules or bands cannot be joined. Use `at` to bring them to one schedule.")
        total = self.trajectories + other.trajectories
        gram = (self.gram * self.trajectories + other.gram * other.trajectories) / total
        return replace(self, gram=gram, trajectories=total)

    def whole(self) -> "Statistics":
        """The same without bands."""
        return replace(self, gram=self.gram.sum(0, keepdims=True), levels=())

    def at(self, schedule: Schedule) -> "Statistics":
        """Carried over to the noise levels of `schedule`: velocities between recorded ones by cubic interpolation."""
        sigmas = schedule.sigmas[:-1]
        if sigmas == self.sigmas:
            return self
        table = np.zeros((len(sigmas) + 1, len(self.sigmas) + 1))
        table[0] = self._state(sigmas[0])
        for row, sigma in zip(table[1:], sigmas, strict=True):
            row[1:] = self._velocity(sigma)
        return replace(self, sigmas=sigmas, gram=table @ self.gram @ table.T, end=schedule.sigmas[-1])

    def _place(self, sigma: float) -> float:
        """Where `sigma` lies among the recorded levels: n at the n-th, a fraction between two."""
        falling = [-value for value in self.sigmas]
        after = min(max(bisect_right(falling, -sigma), 1), len(falling) - 1)
        before = after - 1
        return before + (-sigma - falling[before]) / (falling[after] - falling[before])

    def _velocity(self, sigma: float) -> Array:
        """Weights [N] of the recorded velocities that give the one at `sigma`; beyond the recorded levels the nearest is taken."""
        count = len(self.sigmas)
        place = min(max(self._place(sigma), 0.0), count - 1.0)
        first = min(max(math.floor(place) - 1, 0), max(count - NODES, 0))
        nodes = range(first, min(first + NODES, count))
        weights = np.zeros(count)
        for k in nodes:
            weights[k] = math.prod((place - j) / (k - j) for j in nodes if j != k)
        return weights

    def _state(self, sigma: float) -> Array:
        """Coefficients [N + 1] of the latent at noise level `sigma` of the recorded trajectory."""
        state = np.zeros(len(self.sigmas) + 1)
        state[0] = 1.0
        for n, (start, stop) in enumerate(zip(self.sigmas, [*self.sigmas[1:], self.end], strict=True)):
            if sigma >= start:
                break
            state[1 + n] = max(stop, sigma) - start
        return state
