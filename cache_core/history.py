"""The last few computed features of one stream, with the noise levels they were computed at."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .measure import WIDE


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how features are kept. None keeps the feature's own device or dtype."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None


class History:
    """At most `depth` anchors, oldest first. Features all have one shape [B, ...], and so have the probes kept beside them."""

    def __init__(self, depth: int, placement: Placement) -> None:
        self.times: tuple[float, ...] = ()  # noise levels, oldest first
        self._depth = depth
        self._features: deque[Tensor] = deque(maxlen=depth)
        self._probes: deque[Tensor | None] = deque(maxlen=depth)
        self._placement = placement
        self._plain = placement == Placement()
        self._each = 0  # bytes of an anchor

    def __len__(self) -> int:
        return len(self.times)

    @property
    def features(self) -> tuple[Tensor, ...]:
        """The anchors themselves, oldest first, where and as they are kept: not to be written to."""
        return tuple(self._features)

    @property
    def probes(self) -> tuple[Tensor | None, ...]:
        """What the policy was shown when each anchor was computed, oldest first; None where it was not kept."""
        return tuple(self._probes)

    @property
    def nbytes(self) -> int:
        return len(self.times) * self._each

    def push(self, time: float, feature: Tensor, probe: Tensor | None = None, ours: bool = False) -> None:
        """Keep copies of `feature` [B, ...] and `probe`, the former itself if it is `ours`: nobody writes into it any more.

        A second feature at the newest time replaces the first.
        """
        if self.times and self.times[-1] == time:
            self._features.pop()
            self._probes.pop()
            self.times = self.times[:-1]
        kept = feature if ours and self._plain and not feature.requires_grad else self._placed(feature, not ours)
        beside = None if probe is None else self._placed(probe, True)
        self.times = (*self.times, time)[-self._depth :]
        self._features.append(kept)
        self._probes.append(beside)
        self._each = kept.nbytes + (0 if beside is None else beside.nbytes)

    def _placed(self, tensor: Tensor, copy: bool) -> Tensor:
        if copy and self._plain and not tensor.requires_grad:
            return tensor.clone()  # in one operation
        return tensor.detach().to(self._placement.device, self._placement.dtype or tensor.dtype, copy=copy)

    def newest(self, count: int, dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
        """The newest `count` anchors, newest first, as `dtype` on `device`: not to be written to."""
        for feature in islice(reversed(self._features), count):
            yield feature if feature.dtype is dtype and feature.device == device else feature.to(device, dtype)

    def miss(self, weights: Sequence[float], truth: Tensor) -> Tensor:
        """`truth` [B, ...] minus what `combine` makes of the same weights, in at least float32, with less work."""
        dtype = truth.dtype if truth.dtype in WIDE else torch.float32
        rest: Tensor | None = None
        for weight, term in zip(reversed(weights), self.newest(len(weights), dtype, truth.device), strict=True):
            rest = torch.sub(truth, term, alpha=weight) if rest is None else rest.sub_(term, alpha=weight)
        assert rest is not None, "there is an anchor at least"
        return rest

    def combine(self, weights: Sequence[float], like: Tensor) -> Tensor:
        """Sum of weights[k] * feature[k] over the newest len(weights) anchors, summed in at least float32.

        Returns a new tensor of the features' shape with the device and dtype of `like`.
        """
        dtype = like.dtype if like.dtype in WIDE else torch.float32
        total: Tensor | None = None
        for weight, term in zip(reversed(weights), self.newest(len(weights), dtype, like.device), strict=True):
            total = term * weight if total is None else total.add_(term, alpha=weight)
        assert total is not None, "combine needs at least one anchor"
        return total if dtype is like.dtype else total.to(like.dtype)
