"""The figure of an analysis: profile with branches, maps of places, bands by step, and curves of outputs and probes."""

from collections.abc import Mapping

import torch
from PIL import ImageFont
from torch import Tensor

from ...cache_core.blockcache.analysis import BANDS, Findings
from ..timeline import INK, MARGIN, WIDTH
from .plots import COLOURS, CURVES, FOOT, HEAD, curve, heading, heat, picture, profile_plot, sheet

MAP, GAP = 110, 14  # pixels: side of a block's map of places, and between two of them


def analysis_plot(found: Findings) -> Tensor:
    """Picture [1, H, W, 3] in 0..1."""
    mean = found.bands.mean(0).sqrt()  # of energies over blocks, so that all curves are ratios of sizes
    bands = {f"band {n + 1} of {BANDS}": mean[:, n] for n in range(BANDS)}
    outputs = {name: rows.mean(0) for name, rows in found.outputs.items()}
    probes = {name: rows.mean(0) / rows.mean() for name, rows in {**found.probes, "prediction": found.outputs["prediction"]}.items()}
    parts = [
        profile_plot(found.profile),
        _places(found.tokens),
        _curves(bands, "Spatial frequencies", "change of the residuals, mean over blocks; band 1 is the lowest"),
        _curves(outputs, "Predictions, and the latent", "relative L1 change of each from step to step"),
        _curves(probes, "Cheap probes and what they should foretell", "each over its own mean"),
    ]
    return torch.cat(parts, 1)


def _places(tokens: Tensor) -> Tensor:
    """Maps of where in the picture a residual changes [blocks, F, H, W]: a column for each block, its frames beneath each other."""
    blocks, frames = tokens.shape[:2]
    across = min(blocks, (WIDTH - 2 * MARGIN) // (MAP + GAP))
    image, pen = sheet(HEAD + -(-blocks // across) * frames * (MAP + GAP) + FOOT)
    low, high = float(tokens.min()), float(tokens.max())
    heading(pen, MARGIN, "Where in the picture blocks change", f"a map for each block; dark {low:.2f}, bright {high:.2f} of its mean")
    for block in range(blocks):
        for frame in range(frames):
            left = MARGIN + block % across * (MAP + GAP)
            up = MARGIN + HEAD + (block // across * frames + frame) * (MAP + GAP)
            heat(image, ((tokens[block, frame] - low) / max(high - low, 1e-9)).numpy(), up, MAP / tokens.shape[2], (left, left + MAP))
            pen.text((left + 3, up + 1), f"block {block}" if frame == 0 else f"frame {frame}", INK, ImageFont.load_default(13))
    return picture(image)


def _curves(lines: Mapping[str, Tensor], text: str, words: str) -> Tensor:
    """Named curves [steps] over the steps, to one scale."""
    image, pen = sheet(HEAD + CURVES + FOOT)
    top = max(float(torch.quantile(line[1:], 0.98)) for line in lines.values()) or 1.0
    heading(pen, MARGIN, text, f"{words}; 0 to {top:.3g}; across: steps, noisy to clean")
    for n, (name, line) in enumerate(lines.items()):
        curve(pen, line.numpy(), None, MARGIN + HEAD, CURVES - 20, top, COLOURS[n])
        pen.text((MARGIN, MARGIN + HEAD + 22 * n), name[:18], COLOURS[n], ImageFont.load_default(13))
    return picture(image)
