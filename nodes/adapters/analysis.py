"""Samples uncached and looks at everything that `blockcache.analysis` asks about, three samplings for each trajectory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...cache_core import CacheError, Probe, Site
from ...cache_core import published as p
from ...cache_core.blockcache import Changes, Profile
from ...cache_core.blockcache.analysis import Findings, Outputs, Redundancy, findings
from ...cache_core.blockcache.profile import joined
from ...cache_core.predictors import Observer
from .extent import grid_of
from .families import blocks_of
from .host import attach

Run = Callable[[Any, int], object]  # samples with a model, number n of the trajectories
SITES = (Site.BLOCK, Site.BRANCH, Site.COND)


def analysed(name: str, model: Any, shape: Sequence[int], run: Run, count: int, about: Mapping[str, Any]) -> Findings:
    """What `count` calls of `run` show for each of the SITES, with latents of `shape` [B, C, (F,) H, W] on a ModelPatcher `model`."""
    network = model.model.diffusion_model
    blocks, grid = blocks_of(network), grid_of(network, shape)
    if blocks is None:
        raise CacheError(f"Encore knows no way to the transformer blocks of {type(network).__name__}, so there is nothing to analyse.")
    inner, outputs, profiles = Redundancy(grid), list[Mapping[str, Tensor]](), list[Profile]()
    for number in range(count):
        blockwise, branchwise, made = inner.begin(), Changes(), Outputs()
        observers: tuple[Observer, ...] = (inner, branchwise, made)
        for site, observer in zip(SITES, observers, strict=True):
            shown = Probe.MODULATED if site is Site.BLOCK else Probe.NOTHING
            run(attach(model, p.block_profile(observer, site, shown=shown)), number)
        both = (changes.profile(name, {}, 0, about) for changes in (blockwise, branchwise))
        profiles.append(next(both).beside(next(both)))
        outputs.append(made.changes())
    return findings(joined(profiles), inner, outputs)
