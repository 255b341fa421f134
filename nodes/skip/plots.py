"""The landscape of features as a picture."""

from typing import Any

from torch import Tensor

from ..blockcache.plots import CURVES, FOOT, HEAD, curve, heading, heat, picture, sheet
from ..timeline import COMPUTED, ERROR, MARGIN

ROW = 18  # pixels of a block's row
GAP = 24


def landscape_plot(before: Tensor, after: Tensor, names: tuple[str, str]) -> Tensor:
    """Picture [1, H, W, 3] in 0..1 of two maps [blocks, steps] of changes, brighter for more, and of their means over blocks."""
    top = float(max(before.max(), after.max())) or 1.0
    rows = len(before)
    image, pen = sheet(3 * HEAD + 2 * (rows * ROW + GAP) + CURVES + FOOT)
    up: int = MARGIN
    for name, found in zip(names, (before, after), strict=True):
        words = f"change of the tokens after each block, step to step; mean {float(found.mean()):.4f}, brightest {top:.3f}"
        heading(pen, up, name, words)
        heat(image, (found / top).numpy(), up + HEAD, ROW)
        up += HEAD + rows * ROW + GAP
    heading(pen, up, "Mean over blocks", f"{names[0]}: orange, {names[1]}: blue; along the steps")
    means: Any = [found.mean(0) for found in (before, after)]
    height = float(max(line.max() for line in means)) or 1.0
    for line, colour in zip(means, (ERROR, COMPUTED), strict=True):
        curve(pen, line.numpy(), None, up + HEAD, CURVES - 20, height, colour)
    return picture(image)
