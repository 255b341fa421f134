"""Picture quality, against loops written from the definitions."""

import math

import numpy as np
import pytest
from pack.launch.quality import CEILING, Picture, psnr, ssim


@pytest.fixture
def pair() -> tuple[Picture, Picture]:
    random = np.random.default_rng(3)
    a = random.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + random.integers(-30, 31, a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_psnr_is_the_peak_over_the_mean_square_error(pair: tuple[Picture, Picture]) -> None:
    a, b = pair
    error = sum((int(x) - int(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / a.size
    assert psnr(a, b) == pytest.approx(20 * math.log10(255) - 10 * math.log10(error))


def test_identical_pictures_are_finite_and_perfect(pair: tuple[Picture, Picture]) -> None:
    assert psnr(pair[0], pair[0]) == CEILING
    assert ssim(pair[0], pair[0]) == pytest.approx(1.0)


def test_ssim_is_the_mean_of_the_published_index_over_windows(pair: tuple[Picture, Picture]) -> None:
    x, y = (0.299 * p[..., 0] + 0.587 * p[..., 1] + 0.114 * p[..., 2] for p in pair)
    weights = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    w = np.array(weights) / np.sum(weights)
    found = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            p, q = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            c1, c2 = 6.5025, 58.5225
            found.append((2 * mp * mq + c1) * (2 * c + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(*pair) == pytest.approx(float(np.mean(found)), abs=1e-9)
