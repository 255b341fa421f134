"""Pictures of profiles, schedules and losses, drawn with Pillow like the report's timeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...cache_core.blockcache import BlockSchedule, Profile
from ..timeline import BACK, COMPUTED, ERROR, FAINT, INK, MARGIN, REUSED, WIDTH

LEFT, HEAD, CURVES, FOOT = 150, 60, 260, 40  # pixels: names of the rows, title, height of the curves, axis
COLOURS = (
    (98, 160, 234),
    (245, 166, 91),
    (126, 200, 138),
    (229, 115, 130),
    (178, 140, 220),
    (214, 200, 100),
    (110, 200, 210),
    (200, 150, 120),
)
Pen = Any


def profile_plot(profile: Profile) -> Tensor:
    """Picture [1, H, W, 3] in 0..1: a curve for each block with the spread over trajectories, and a map of all places by step."""
    rows = len(profile.places)
    each = _height(rows)
    image, pen = sheet(HEAD + CURVES + FOOT + HEAD + rows * each + FOOT)
    mean, spread = profile.mean.numpy(), profile.spread.numpy()
    top = float(np.quantile(mean + spread, 0.99)) or 1.0
    title = f"{profile.name}: relative L1 change of each block's residual, {profile.trajectories} trajectories"
    heading(pen, MARGIN, title, f"Eq 6, 0 to {top:.3g}; band: standard deviation over trajectories; across: steps, noisy to clean")
    for n in range(profile.blocks):
        curve(pen, mean[n], spread[n], MARGIN + HEAD, CURVES - 20, top, COLOURS[n % len(COLOURS)])
    under = MARGIN + HEAD + CURVES + FOOT
    heading(pen, under, "The same as a map", "brighter: changes more")
    heat(image, mean / top, under + HEAD, each)
    for n, place in enumerate(profile.places):
        words = f"block {place.index}" if place.branch is None else f"{place.index} {profile.branch(place)}"
        _name(pen, words, under + HEAD + n * each, each, n)
    return picture(image)


def schedule_plot(schedule: BlockSchedule) -> Tensor:
    """Picture [1, H, W, 3] in 0..1: a row for each block, a cell for each step, filled where the block is computed."""
    rows = len(schedule.computed)
    each = _height(rows)
    image, pen = sheet(HEAD + rows * each + FOOT)
    words = f"delta {schedule.delta:.4g}, {100 * schedule.share:.0f} % of the cells computed"
    heading(pen, MARGIN, f"{schedule.name}: {schedule.reduction:.2f}x fewer MACs", f"{words}; blue: computed, dark: held")
    wide = (WIDTH - LEFT - MARGIN) / schedule.steps
    for block, computed in enumerate(schedule.computed):
        up = MARGIN + HEAD + block * each
        _name(pen, f"block {block}", up, each, block)
        for step in range(schedule.steps):
            box = (LEFT + step * wide, up, LEFT + (step + 0.9) * wide, up + max(each - 2, 1))
            pen.rectangle(box, COMPUTED if step in computed else REUSED)
    return picture(image)


def loss_plot(losses: Sequence[float], title: str) -> Tensor:
    """Picture [1, H, W, 3] in 0..1 of a training's losses on a logarithmic axis, a step of the optimiser each."""
    image, pen = sheet(HEAD + CURVES + FOOT)
    logs = np.log10(np.maximum(losses or [1.0], 1e-12))
    low, high = float(logs.min()), float(logs.max())
    heading(pen, MARGIN, title, f"{len(losses)} roll-outs; loss from {10**high:.3g} (top) to {10**low:.3g} (foot), logarithmic")
    curve(pen, logs - low, None, MARGIN + HEAD, CURVES - 20, (high - low) or 1.0, ERROR)
    return picture(image)


def curve(pen: Pen, values: Any, spread: Any, up: int, height: int, top: float, colour: tuple[int, ...]) -> None:
    """A line through values [n] from 0 to `top`, with a band of `spread` [n] round it."""
    across = np.linspace(LEFT, WIDTH - MARGIN, max(len(values), 2))
    foot, scale = up + height, height / top
    if spread is not None:
        over = [(x, foot - min(v + s, top) * scale) for x, v, s in zip(across, values, spread, strict=False)]
        under = [(x, foot - min(max(v - s, 0), top) * scale) for x, v, s in zip(across, values, spread, strict=False)]
        pen.polygon([*over, *reversed(under)], (*colour, 40))
    pen.line([(x, foot - min(v, top) * scale) for x, v in zip(across, values, strict=False)], colour, 2)


def heat(image: Image.Image, values: Any, up: int, each: float, across: tuple[int, int] = (LEFT, WIDTH - MARGIN)) -> None:
    """A map of values [rows, columns] in 0..1, dark to bright: rows of `each` pixels from `up`, columns from left to right edge."""
    share = np.clip(values, 0, 1)[..., None]
    colours = np.array(BACK) * (1 - share) + np.array(ERROR) * share
    cells = Image.fromarray(colours.round().astype(np.uint8))
    image.paste(cells.resize((across[1] - across[0], round(len(values) * each)), Image.Resampling.NEAREST), (across[0], up))


def picture(image: Image.Image) -> Tensor:
    """The host's IMAGE [1, H, W, 3]."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255.0)[None]


def sheet(height: int) -> tuple[Image.Image, Pen]:
    """An empty picture of this height, its margins besides, and a pen to draw on it."""
    image = Image.new("RGB", (WIDTH, height + 2 * MARGIN), BACK)
    return image, ImageDraw.Draw(image, "RGBA")


def _height(rows: int) -> int:
    """Pixels of a row, so that many rows fit."""
    return max(min(30, 900 // max(rows, 1)), 6)


def heading(pen: Pen, up: int, title: str, words: str) -> None:
    """A title, and words below it."""
    pen.text((MARGIN, up), title, INK, ImageFont.load_default(20))
    pen.text((MARGIN, up + 28), words, FAINT, ImageFont.load_default(15))


def _name(pen: Pen, words: str, up: int, each: int, row: int) -> None:
    """The name beside a row, where there is room for it, in the colour of its curve."""
    if each >= 14:
        pen.text((MARGIN, up + (each - 16) // 2), words[:18], COLOURS[row % len(COLOURS)], ImageFont.load_default(13))
