"""Samples with the host's own sampler for Block Caching: measures a profile, and lets a pupil learn an alignment."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cache_core import CacheError, Ledger, Placement, Site
from ...cache_core import published as p
from ...cache_core.blockcache import Alignment, BlockSchedule, Changes, Profile
from ...cache_core.blockcache import weighed as weigh
from ...cache_core.blockcache.profile import joined
from ...cache_core.memory import kept_bytes
from ...cache_core.types import Place
from .calibrate import Sampling, about
from .extent import extent_of
from .families import blocks_of
from .host import attach
from .lessons import Lesson, taught, uncounted

KEY = "encore lesson"


@dataclass(slots=True)
class Measurement:
    """A profile in the making: changes of the samplings so far, of the blocks and, if asked for, of their branches."""

    name: str
    branches: bool = False
    placement: Placement = field(default_factory=Placement)
    parts: list[Profile] = field(default_factory=list)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Each trajectory is sampled once for each of them."""
        return (Site.BLOCK, Site.BRANCH) if self.branches else (Site.BLOCK,)

    @contextmanager
    def through(self, model: Any, site: Site, told: Mapping[str, Any]) -> Iterator[Any]:
        """A clone of `model` to sample once with, uncached; what it showed is added when the context ends well."""
        changes, ledgers = Changes(), list[Ledger]()
        yield attach(model, p.block_profile(changes, site, self.placement), ledgers.append)
        ledger = ledgers[-1]
        whole = ledger.entries[0].macs if ledger.counted and ledger.entries else 0
        macs = {place: made for place, made in ledger.places.items() if isinstance(place, Place)} if whole else {}
        self.parts.append(changes.profile(self.name, macs, whole, told))

    def profile(self) -> Profile:
        """Everything measured so far as one."""
        count = len(self.sites)
        found = [joined(self.parts[n::count]) for n in range(count)]
        return found[0].beside(found[1]) if count > 1 else found[0]


def profiled(sampling: Sampling, measurement: Measurement, trajectories: int, seed: int) -> Profile:
    """The profile of so many samplings, with a progress bar over all steps."""
    bar = comfy.utils.ProgressBar(trajectories * len(measurement.sites) * sampling.steps)
    told = {**about(sampling), "seed": seed}
    for number in range(trajectories):
        for site in measurement.sites:
            with measurement.through(sampling.model, site, told) as model:
                sampling.run(model, seed + number, number, bar)
    return measurement.profile()


def forecast_bytes(sampling: Sampling, measurement: Measurement, text: int) -> int | None:
    """Bytes that a measurement keeps at once: one step's residuals of each condition. None if the model's blocks are not known."""
    shape, kept = list(sampling.latent["samples"].shape), 0
    for site in measurement.sites:
        recipe = p.block_profile(Changes(), site, measurement.placement)
        extent = extent_of(sampling.model, recipe, shape, text, 1 if sampling.cfg == 1.0 else 2)
        if extent is None:
            return None
        kept = max(kept, kept_bytes(recipe, extent))
    return kept


def student(model: Any, schedule: BlockSchedule, lesson: Lesson, placement: Placement | None = None) -> Any:
    """A clone of `model` that samples by `schedule` and lets the lesson's pupil learn at every evaluation."""
    check(model, schedule)
    if not schedule.cached:
        raise CacheError("The schedule computes every block at every step, so there is nothing to align. Ask it for a larger saving.")
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, uncounted)  # both are added before the cache's own, so they are outside of them
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, taught(lesson))
    return attach(model, p.block_cache(schedule, lesson.pupil, placement))


def weighed(
    model: Any, schedule: BlockSchedule, alignment: Alignment, run: Callable[[Any], Tensor], placement: Placement | None = None
) -> Alignment:
    """An alignment weighed on the samplings that `run` makes with a model: their latents or pictures [B, ...] at the end."""
    return weigh(alignment, run(model), lambda known: run(attach(model, p.block_cache(schedule, known, placement))))


def check(model: Any, schedule: BlockSchedule) -> None:
    """Raise CacheError for a schedule of a model with other blocks."""
    network = model.model.diffusion_model
    blocks = blocks_of(network)
    if blocks is None:
        raise CacheError(f"Encore knows no way to the transformer blocks of {type(network).__name__}, so none can be cached.")
    count = len(blocks.keys(network))
    if count != len(schedule.computed):
        raise CacheError(
            f"The schedule {schedule.name!r} is of a model with {len(schedule.computed)} blocks, and {type(network).__name__} has {count}. "
            "Profile this model and make a schedule of it."
        )
