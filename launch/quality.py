"""How near two pictures are: PSNR in dB, and SSIM of Wang et al. 2004."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.uint8]  # [H, W, 3]
CEILING = 100.0  # dB, what identical pictures are given: JSON knows no infinity
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
SIGMA, RADIUS = 1.5, 5  # Wang et al. 2004, section III.B: a Gaussian of 11 x 11 pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # K1 = 0.01, K2 = 0.03, L = 255


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio over all pixels and channels, dB; CEILING when nothing differs."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return CEILING if error == 0 else min(CEILING, 10 * float(np.log10(255**2 / error)))


def ssim(a: Picture, b: Picture) -> float:
    """Mean structural similarity of the luma, eq. 13 of Wang et al. 2004 (doi 10.1109/TIP.2003.819861), where the window lies inside."""
    x, y = a.astype(np.float64) @ LUMA, b.astype(np.float64) @ LUMA
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y, cov = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2, _window(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + C1) * (2 * cov + C2) / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    return float(np.mean(index[RADIUS:-RADIUS, RADIUS:-RADIUS]))


def _window(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted local means, [H, W]."""
    means: NDArray[np.float64] = gaussian_filter(values, SIGMA, radius=RADIUS)
    return means
