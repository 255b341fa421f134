"""A predictor that looks at what the first blocks say now."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RecipeError
from ..history import History
from ..types import Observation
from .base import Predictor


@dataclass(frozen=True, slots=True)
class TwoAnchor(Predictor):
    """DiCache (arXiv:2508.17356), cache trajectory alignment: as far on the way from the last anchor but one as the probe is.

    r_b + gamma (r_a - r_b), gamma = |q_t - q_b|_1 / |q_a - q_b|_1, for residuals r and first-block residuals q of the newest
    anchor a, the one before b, and now t. `clip` bounds gamma as the authors' code does for FLUX and HunyuanVideo (for Wan:
    1 to 2); None leaves the paper's formula alone. One gamma for each row of the batch, where the authors take one for all:
    the same at batch 1. With one anchor, or where the probe did not move between the two, it is the last residual.
    """

    clip: tuple[float, float] | None = (1.0, 1.5)

    def __post_init__(self) -> None:
        if self.clip is not None and not 0.0 <= self.clip[0] <= self.clip[1]:
            raise RecipeError(f"TwoAnchor clips to a range from 0 up, smaller bound first, not {self.clip}; 1 to 1.5 is published.")

    @property
    def depth(self) -> int:
        return 2

    @property
    def keeps_probes(self) -> bool:
        return True

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        if len(history) < 2:
            return history.combine([1.0], x)
        gamma = self._gamma(history, seen, x)
        before, newest = (feature.to(x.device, gamma.dtype) for feature in history.features[-2:])
        along = gamma.view(-1, *[1] * (newest.ndim - 1))
        return (before + along * (newest - before)).to(x.dtype)

    def _gamma(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        """How far each row has come [B], 1 = at the newest anchor; in at least float32, on the device of `x`."""
        wide = torch.promote_types(x.dtype, torch.float32)
        probes = [probe.to(x.device, wide) for probe in (*history.probes[-2:], seen.probe) if probe is not None]
        if len(probes) < 3:
            raise RecipeError(f"TwoAnchor needs 3 probes and was shown {len(probes)}: take a policy that has one, such as Change.")
        before, newest, now = probes
        way = (now - before).abs().flatten(1).sum(1)
        whole = (newest - before).abs().flatten(1).sum(1)
        gamma = torch.where(whole > 0.0, way / whole, torch.ones_like(whole))
        return gamma if self.clip is None else gamma.clamp(*self.clip)
