"""Draws a benchmark's rows as a picture: fidelity against cost, a line for each method."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..nodes.timeline import BACK, FAINT, INK
from .output import Row

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 1280, 760, 90, 330, 70, 80
COLOURS = (
    (245, 166, 91),
    (98, 160, 234),
    (126, 200, 138),
    (229, 115, 130),
    (178, 140, 220),
    (214, 200, 100),
    (110, 200, 210),
    (160, 165, 175),
    (150, 110, 80),
    (232, 232, 236),
    (240, 130, 200),
    (90, 120, 90),
    (120, 90, 140),
)
ALONE = (110, 116, 126)  # of methods with a single point, which has its name beside it
Point = tuple[float, float]


def frontier(rows: Sequence[Row], file: Path) -> None:
    """PSNR to the uncached result against MACs saved, from rows with `psnr_db` and `macs_reduction`; written whole or not at all."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if row["method"] != "uncached" and row.get("psnr_db") is not None and row.get("macs_reduction"):
            lines.setdefault(row["method"], []).append((float(row["macs_reduction"]), float(row["psnr_db"])))
    image = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    pen = ImageDraw.Draw(image)
    models = ", ".join(sorted({str(row["model"]) for row in rows}))
    pen.text((LEFT, 16), f"{models}: PSNR to the uncached result in dB, against how many times fewer MACs", INK, ImageFont.load_default(24))
    if lines:
        _draw(pen, {name: sorted(points) for name, points in lines.items()})
    part = file.with_suffix(".part")
    image.save(part, "PNG")
    os.replace(part, file)


def _draw(pen: Any, lines: dict[str, list[Point]]) -> None:
    """Axes, lines and names; the highest line's name first."""
    across = [x for points in lines.values() for x, _ in points]
    upwards = [y for points in lines.values() for _, y in points]
    left, right = 1.0, max(across) * 1.03
    low, high = 5.0 * (min(upwards) // 5), 5.0 * (max(upwards) // 5 + 1)
    small = ImageFont.load_default(18)

    def at(point: Point) -> Point:
        x = LEFT + (point[0] - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - FOOT - (point[1] - low) / (high - low) * (HEIGHT - TOP - FOOT)

    for step in range(int((high - low) / 5) + 1):
        (start, y), (stop, _) = at((left, low + 5 * step)), at((right, low))
        pen.line((start, y, stop, y), (52, 57, 66))
        pen.text((LEFT - 50, y - 11), f"{low + 5 * step:g}", FAINT, small)
    for tick in range(1, int(right) + 1):
        x, y = at((tick, low))
        pen.text((x - 8, y + 12), f"{tick}x", FAINT, small)
    for name, (point,) in [(name, points) for name, points in lines.items() if len(points) == 1]:
        x, y = at(point)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), ALONE)
        pen.text((x + 7, y - 8), name, ALONE, ImageFont.load_default(13))
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    order = sorted(lines, key=lambda name: -sum(y for _, y in lines[name]) / len(lines[name]))
    for n, name in enumerate(order):
        colour = COLOURS[n % len(COLOURS)]
        places = [at(point) for point in lines[name]]
        for a, b in pairwise(places):
            pen.line((*a, *b), colour, 3)
        for x, y in places:
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), colour)
        top = TOP + 20 + 30 * n
        pen.ellipse((WIDTH - RIGHT + 20, top + 5, WIDTH - RIGHT + 32, top + 17), colour)
        pen.text((WIDTH - RIGHT + 44, top), name, INK, small)
