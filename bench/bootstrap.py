"""Confidence intervals by the paired bootstrap over prompts (Efron 1979): percentiles over resamples of the same prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95
Interval = tuple[float, float]


def resamples(count: int, seed: int = 0) -> Tensor:
    """Which of `count` prompts each resample draws, with replacement: [RESAMPLES, count], always the same.

    Two sets of results on the same prompts are compared on the same draws, so what a prompt does to both cancels.
    """
    if count < 1:
        raise ValueError(f"A resample needs 1 prompt or more, not {count}.")
    return torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))


def means(values: Sequence[float]) -> Tensor:
    """Mean of `values`, one a prompt, in each resample: [RESAMPLES]."""
    return torch.tensor(values, dtype=torch.float64)[resamples(len(values))].mean(1)


def medians(values: Sequence[float]) -> Tensor:
    """Median of `values` in each resample: [RESAMPLES]."""
    return torch.tensor(values, dtype=torch.float64)[resamples(len(values))].quantile(0.5, dim=1)


def interval(statistic: Tensor) -> Interval:
    """The middle LEVEL of a statistic's values over resamples [RESAMPLES]."""
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = statistic.double().quantile(tails).tolist()
    return low, high
