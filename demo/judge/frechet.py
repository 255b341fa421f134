"""Frechet distance between two sets of features, each taken as a Gaussian (FID's formula: arXiv 1706.08500, eq. 6)."""

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """Measure |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of features [N, D] and [M, D], in float64.

    With C = R'R, the root's trace is the sum of the singular values of R_a R_b'. That needs no root of a matrix, so
    singular covariances (fewer pictures than features) do no harm. Few pictures bias it upwards: compare equal counts.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        found = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"Features must be [N, D] and [M, D] with N, M > 1 and the same D; found {found}.")
    a, b = a.double(), b.double()
    first, second = _root(a), _root(b)
    cross = torch.linalg.svdvals(first @ second.T).sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + first.square().sum() + second.square().sum() - 2 * cross)


def _root(rows: Tensor) -> Tensor:
    """Give R [min(N, D), D] with R'R the covariance of rows [N, D]."""
    centred = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    triangle: Tensor = torch.linalg.qr(centred, mode="r")[1]
    return triangle
