"""How much a recipe keeps, foretold from shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .policies import Change, Drift, Embedded, Guard, OutputRate, Policy
from .policies.place import Placed
from .recipe import Recipe, Site
from .types import Probe


@dataclass(frozen=True, slots=True)
class Extent:
    """What is sampled, and the network that samples it.

    `latent` are the values of the solver's state, all samples together; `tokens` those of a sample, `text` of them text that the
    blocks carry along; `features` says for each block how many outputs as wide as all tokens its cached branches have;
    `modulated` are the values of a sample that TeaCache compares where these are not the picture's tokens.
    """

    latent: int
    tokens: int
    width: int
    blocks: int
    samples: int = 1
    conditions: int = 1  # 2 with CFG
    features: Sequence[int] = ()
    dtype: torch.dtype = torch.bfloat16  # the network's; the solver's state is float32
    text: int = 0
    modulated: int | None = None


def kept_bytes(recipe: Recipe, extent: Extent) -> int:
    """The most bytes that `recipe` keeps: places x conditions x (anchors, their probes, and what the policy compares).

    Exact once the predictor has all its anchors (`depth` computed evaluations), and the largest that it gets.
    """
    inside, picture = recipe.site.inside, (extent.tokens - extent.text) * extent.width * extent.samples
    values = extent.tokens * extent.width * extent.samples if inside else extent.latent
    own = (extent.dtype if inside else torch.float32).itemsize
    size = recipe.placement.dtype.itemsize if recipe.placement.dtype else own
    anchors = recipe.predictor.depth * (values * (1 + recipe.predictor.keeps_inputs) + recipe.predictor.keeps_probes * picture) * size
    compared = own * _compared(recipe.policy, _shown(recipe, extent, picture), values)
    conditions = extent.conditions if inside or recipe.site is Site.COND else 1
    return conditions * _places(recipe, extent) * (anchors + compared)


def _shown(recipe: Recipe, extent: Extent, picture: int) -> int:
    """Values of one probe."""
    timed = picture if extent.modulated is None else extent.modulated * extent.samples
    sizes = {Probe.NOTHING: 0, Probe.LATENT: extent.latent, Probe.MODULATED: timed, Probe.FIRST_BLOCK: picture}
    return sizes.get(recipe.policy.probe, extent.width * extent.samples)


def _compared(policy: Policy[Any], probe: int, output: int) -> int:
    """The most values that a policy keeps to compare with, for probes and outputs of these sizes."""
    if isinstance(policy, Guard):
        return _compared(policy.inner, probe, output)
    if isinstance(policy, Placed):
        return max(_compared(part, probe, output) for part in policy.parts)
    if isinstance(policy, OutputRate):
        return 2 * probe + output
    if isinstance(policy, Embedded):
        return (policy.order + 1) * output
    return probe if isinstance(policy, (Change, Drift)) else 0


def _places(recipe: Recipe, extent: Extent) -> int:
    """Features as large as the tokens, or the latent, that are kept for each condition."""
    if not recipe.site.inside:
        return 1
    spans = recipe.cached(extent.blocks)
    if recipe.site is Site.STACK:
        return len(spans)
    blocks = [block for span in spans for block in span]
    return len(blocks) if recipe.site is Site.BLOCK else sum(extent.features[block] for block in blocks)
