"""How much a recipe keeps, foretold from shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .recipe import Recipe, Site


@dataclass(frozen=True, slots=True)
class Extent:
    """What is sampled, and the network that samples it.

    `latent` are the values of the solver's state, all samples together; `tokens` those of a sample, text included where the
    blocks carry it along; `features` says for each block how many outputs as wide as all tokens its cached branches have.
    """

    latent: int
    tokens: int
    width: int
    blocks: int
    samples: int = 1
    conditions: int = 1  # 2 with CFG
    features: Sequence[int] = ()
    dtype: torch.dtype = torch.bfloat16  # the network's; the solver's state is float32


def kept_bytes(recipe: Recipe, extent: Extent) -> int:
    """The most bytes that `recipe` keeps: anchors x places x conditions x values x bytes of a value.

    Exact once the predictor has all its anchors (`depth` computed evaluations), and the largest that it gets.
    """
    anchors = recipe.predictor.depth * (2 if recipe.predictor.keeps_probes else 1)
    inside = recipe.site.inside
    conditions = extent.conditions if inside or recipe.site is Site.COND else 1
    values = extent.tokens * extent.width * extent.samples if inside else extent.latent
    size = (recipe.placement.dtype or (extent.dtype if inside else torch.float32)).itemsize
    return anchors * _places(recipe, extent) * conditions * values * size


def _places(recipe: Recipe, extent: Extent) -> int:
    """Features as large as the tokens, or the latent, that are kept for each condition."""
    if not recipe.site.inside:
        return 1
    spans = recipe.cached(extent.blocks)
    if recipe.site is Site.STACK:
        return len(spans)
    blocks = [block for span in spans for block in span]
    return len(blocks) if recipe.site is Site.BLOCK else sum(extent.features[block] for block in blocks)
