"""The landscape of features as a picture."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..timeline import BACK, COMPUTED, ERROR, FAINT, INK, MARGIN, WIDTH

TITLE, ROW, CURVES, GAP = 60, 18, 240, 28  # pixels: of a title, a block's row, the curves, between them
ACROSS = WIDTH - 2 * MARGIN


def landscape_plot(before: Tensor, after: Tensor, names: tuple[str, str]) -> Tensor:
    """Picture [1, H, W, 3] in 0..1 of two maps [blocks, steps] of changes, brighter for more, and of their means over blocks."""
    top = float(max(before.max(), after.max())) or 1.0
    height = 2 * MARGIN + 3 * TITLE + (len(before) + len(after)) * ROW + 2 * GAP + CURVES
    image = Image.new("RGB", (WIDTH, height), BACK)
    pen, up = ImageDraw.Draw(image), MARGIN
    for name, found in zip(names, (before, after), strict=True):
        words = f"change of the tokens after each block (rows) from step to step; mean {float(found.mean()):.4f}, brightest {top:.3f}"
        _title(pen, up, name, words)
        _map(image, (found / top).numpy(), up + TITLE)
        up += TITLE + len(found) * ROW + GAP
    _title(pen, up, "Mean over blocks", f"{names[0]}: orange, {names[1]}: blue; from noisy to clean")
    means = [found.mean(0).numpy() for found in (before, after)]
    most = float(max(line.max() for line in means)) or 1.0
    for line, colour in zip(means, (ERROR, COMPUTED), strict=True):
        places = np.linspace(MARGIN, WIDTH - MARGIN, len(line))
        foot = up + TITLE + CURVES
        pen.line([(x, foot - value / most * (CURVES - 20)) for x, value in zip(places, line, strict=True)], colour, 2)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255.0)[None]


def loss_plot(losses: list[float], words: str) -> Tensor:
    """Picture [1, H, W, 3] in 0..1 of a training's losses: running means over a fiftieth of them."""
    window = max(len(losses) // 50, 1)
    line = np.convolve(losses, np.ones(window) / window, "valid")
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + TITLE + CURVES), BACK)
    pen, foot, low, high = ImageDraw.Draw(image), MARGIN + TITLE + CURVES, float(line.min()), float(line.max())
    _title(pen, MARGIN, words, f"{len(losses)} steps; from {high:.4g} (top) to {low:.4g} (foot)")
    places = np.linspace(MARGIN, WIDTH - MARGIN, max(len(line), 2))
    scale = (CURVES - 20) / ((high - low) or 1.0)
    pen.line([(x, foot - (value - low) * scale) for x, value in zip(places, line, strict=False)], ERROR, 2)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255.0)[None]


def _title(pen: Any, up: int, title: str, words: str) -> None:
    pen.text((MARGIN, up), title, INK, ImageFont.load_default(20))
    pen.text((MARGIN, up + 28), words, FAINT, ImageFont.load_default(15))


def _map(image: Image.Image, values: Any, up: int) -> None:
    share = np.clip(values, 0, 1)[..., None]
    colours = np.array(BACK) * (1 - share) + np.array(ERROR) * share
    cells = Image.fromarray(colours.round().astype(np.uint8))
    image.paste(cells.resize((ACROSS, len(values) * ROW), Image.Resampling.NEAREST), (MARGIN, up))
