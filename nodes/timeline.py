"""Draws a sampling as a picture: a bar for each evaluation, filled where it was computed."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..cache_core import Ledger

WIDTH, MARGIN, LANE, HEAD = 960, 24, 130, 66
BACK, INK, FAINT = (24, 26, 31), (232, 234, 237), (110, 116, 128)
COMPUTED, REUSED, ERROR = (98, 160, 234), (38, 43, 52), (245, 166, 91)


def draw(run: Ledger, baseline: Ledger | None = None) -> Tensor:
    """Picture [1, H, W, 3] in 0..1: a lane for the baseline, if given, and one for the run, to one scale of time."""
    ledgers = [ledger for ledger in (baseline, run) if ledger is not None]
    image = Image.new("RGB", (WIDTH, len(ledgers) * (HEAD + LANE) + 2 * MARGIN), BACK)
    canvas = ImageDraw.Draw(image)
    tallest = max((entry.seconds for ledger in ledgers for entry in ledger.entries), default=0.0) or 1.0
    for n, ledger in enumerate(ledgers):
        _lane(canvas, ledger, MARGIN + n * (HEAD + LANE), tallest)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255.0)[None]


def _lane(canvas: Any, ledger: Ledger, top: int, tallest: float) -> None:
    font, small = ImageFont.load_default(28), ImageFont.load_default(20)
    title = f"{ledger.recipe}   {ledger.seconds:.2f} s   {ledger.computed} of {ledger.evaluations} computed"
    canvas.text((MARGIN, top), title, INK, font)
    canvas.text((MARGIN, top + 34), "bar: time of a computed step; line: forecast error, 1e-5 to 1", FAINT, small)
    foot = top + HEAD + LANE - 18
    each = (WIDTH - 2 * MARGIN) / max(ledger.evaluations, 1)
    for n, entry in enumerate(ledger.entries):
        left, right = MARGIN + n * each, MARGIN + (n + 0.86) * each
        height = max((LANE - 24) * entry.seconds / tallest, 3.0)
        canvas.rectangle((left, foot - LANE + 24, right, foot), REUSED if not entry.computed else None, REUSED)
        if entry.computed:
            canvas.rectangle((left, foot - height, right, foot), COMPUTED)
    _errors(canvas, ledger, foot, each)


def _errors(canvas: Any, ledger: Ledger, foot: int, each: float) -> None:
    """The forecast errors on a logarithmic axis from 1e-5 to 1."""
    points = [
        (MARGIN + (n + 0.43) * each, foot - (LANE - 24) * (1 + math.log10(min(max(entry.error, 1e-5), 1.0)) / 5))
        for n, entry in enumerate(ledger.entries)
        if entry.error is not None
    ]
    if len(points) > 1:
        canvas.line(points, ERROR, 2)
