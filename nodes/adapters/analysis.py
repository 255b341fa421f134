"""Samples uncached and looks at everything that `blockcache.analysis` asks about, up to three samplings for each trajectory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...cache_core import Ledger, Probe, Site
from ...cache_core import published as p
from ...cache_core.blockcache import Changes, Profile
from ...cache_core.blockcache.analysis import Findings, Outputs, Redundancy, findings
from ...cache_core.blockcache.profile import joined
from ...cache_core.predictors import Observer
from .blockcache import measurable, stayed, with_branches
from .extent import grid_of
from .families import blocks_of
from .host import attach

Run = Callable[[Any, int], object]  # samples with a model, number n of the trajectories
SITES = (Site.BLOCK, Site.BRANCH, Site.COND)


def samplings(model: Any) -> int:
    """How often each trajectory of a ModelPatcher's model is sampled. Raises CacheError if its blocks are out of reach."""
    return len(measurable(model, SITES)[0])


def analysed(name: str, model: Any, shape: Sequence[int], run: Run, count: int, about: Mapping[str, Any]) -> Findings:
    """What `count` calls of `run` show for each of the SITES, with latents of `shape` [B, C, (F,) H, W] on a ModelPatcher `model`.

    Where the model's branches are out of reach they are left out, and the findings say so. Raises CacheError if its blocks are.
    """
    sites, notes = measurable(model, SITES)
    network = model.model.diffusion_model
    blocks, grid = blocks_of(network), grid_of(network, shape)
    inner, outputs, profiles = Redundancy(grid, blocks.text if blocks else None), list[Mapping[str, Tensor]](), list[Profile]()
    for number in range(count):
        blockwise, branchwise, made = inner.begin(), Changes(), Outputs()
        observers: dict[Site, Observer] = {Site.BLOCK: inner, Site.BRANCH: branchwise, Site.COND: made}
        for site in sites:
            shown, ledgers = Probe.MODULATED if site is Site.BLOCK else Probe.NOTHING, list[Ledger]()
            recipe = p.block_profile(observers[site], site, shown=shown)
            run(attach(model, recipe, ledgers.append), number)
            stayed(recipe, ledgers[-1])
        found = blockwise.profile(name, {}, 0, about)
        profiles.append(with_branches(model, found, branchwise.profile(name, {}, 0, about)) if Site.BRANCH in sites else found)
        outputs.append(made.changes())
    return findings(joined(profiles), inner, outputs, notes)
