"""The shapes that say how much a recipe keeps on the model at hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...cache_core import Recipe
from ...cache_core.memory import Extent
from .families import blocks_of
from .parts import parts_of


def extent_of(model: Any, recipe: Recipe, latent: Sequence[int], text: int = 0, conditions: int = 1) -> Extent | None:
    """Shapes of sampling a `latent` [B, C, (F,) H, W] on a ModelPatcher's model; None if its blocks are not known.

    `text` tokens go along with the picture's where the family carries them through its blocks (Flux, Qwen-Image). Reference
    pictures, which some models append, are not counted.
    """
    network = model.model.diffusion_model
    blocks = blocks_of(network)
    if blocks is None:
        return None
    keys = blocks.keys(network)
    width = next(value.shape[-1] for value in blocks.block(network, keys[0]).parameters() if value.ndim > 1)
    picture = math.prod(grid_of(network, latent))
    parts = {kind: len(parts_of(network, kind, recipe)) for kind, _ in keys}
    dtype: torch.dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    carried = text if len(blocks.parts) > 1 else 0
    features = [parts[kind] for kind, _ in keys]
    extent = Extent(math.prod(latent), picture + carried, width, len(keys), latent[0], conditions, features, dtype, carried)
    timed = not hasattr(blocks.block(network, keys[0]), "img_norm1")  # Wan and LTXV: a shift, a scale and a gate, twice
    return replace(extent, modulated=6 * width) if timed else extent


def grid_of(network: Any, latent: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens that a `latent` [B, C, (F,) H, W] is cut into."""
    patch = getattr(network, "patch_size", 1)
    sides = (1, patch, patch) if isinstance(patch, int) else (1, *patch)[-3:]
    frames, rows, columns = (math.ceil(size / side) for size, side in zip((1, *latent[2:])[-3:], sides, strict=True))
    return frames, rows, columns
