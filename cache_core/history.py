"""The last few computed features of one stream, with the noise levels they were computed at."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how features are kept. None keeps the feature's own device or dtype."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None


class History:
    """At most `depth` anchors, oldest first. Features all have one shape [B, ...]."""

    def __init__(self, depth: int, placement: Placement) -> None:
        self._times: deque[float] = deque(maxlen=depth)
        self._features: deque[Tensor] = deque(maxlen=depth)
        self._placement = placement

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(self._times)

    @property
    def nbytes(self) -> int:
        return sum(feature.nbytes for feature in self._features)

    def push(self, time: float, feature: Tensor) -> None:
        """Keep a copy of `feature` [B, ...]; a second feature at the newest time replaces the first."""
        if self._times and self._times[-1] == time:
            self._times.pop()
            self._features.pop()
        kept = self._placement
        self._times.append(time)
        self._features.append(feature.detach().to(kept.device, kept.dtype or feature.dtype, copy=True))

    def combine(self, weights: Sequence[float], like: Tensor) -> Tensor:
        """Sum of weights[k] * feature[k] over the newest len(weights) anchors, summed in at least float32.

        Returns a new tensor of the features' shape with the device and dtype of `like`.
        """
        wide = torch.promote_types(like.dtype, torch.float32)
        total: Tensor | None = None
        for weight, feature in zip(reversed(weights), reversed(self._features), strict=False):
            term = feature.to(like.device, wide)
            total = term * weight if total is None else total.add_(term, alpha=weight)
        assert total is not None, "combine needs at least one anchor"
        return total.to(like.dtype)
