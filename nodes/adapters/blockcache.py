"""Samples with the host's own sampler for Block Caching: measures a profile, and lets a pupil learn an alignment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cache_core import CacheError, Ledger, Placement, Recipe, Site
from ...cache_core import published as p
from ...cache_core.blockcache import Alignment, BlockSchedule, Changes, Profile
from ...cache_core.blockcache import weighed as weigh
from ...cache_core.blockcache.profile import joined
from ...cache_core.fallback import outside
from ...cache_core.memory import kept_bytes
from ...cache_core.types import Place
from . import options
from .calibrate import Sampling, about
from .extent import extent_of
from .families import NETWORKS, blocks_of
from .host import attach
from .inside import unreachable
from .lessons import Lesson, taught, uncounted
from .parts import joint_of

KEY = "encore lesson"


@dataclass(slots=True)
class Measurement:
    """A profile in the making: changes of the samplings so far, of the blocks and, if asked for and in reach, of their branches.

    Each trajectory is sampled once for each of the `sites`; `notes` say what is left out. Raises CacheError for a `model`
    (ModelPatcher) whose blocks are out of reach.
    """

    name: str
    model: Any
    branches: bool = False
    placement: Placement = field(default_factory=Placement)
    parts: list[Profile] = field(default_factory=list)
    sites: tuple[Site, ...] = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.sites, self.notes = measurable(self.model, (Site.BLOCK, Site.BRANCH) if self.branches else (Site.BLOCK,))

    @contextmanager
    def through(self, site: Site, told: Mapping[str, Any]) -> Iterator[Any]:
        """A clone of the model to sample once with, uncached; what it showed is added when the context ends well.

        Raises CacheError if the sampling had to leave the network.
        """
        changes = Changes()
        recipe, ledgers = p.block_profile(changes, site, self.placement), list[Ledger]()
        yield attach(self.model, recipe, ledgers.append)
        ledger = stayed(recipe, ledgers[-1])
        whole = ledger.entries[0].macs if ledger.counted and ledger.entries else 0
        macs = {place: made for place, made in ledger.places.items() if isinstance(place, Place)} if whole else {}
        self.parts.append(changes.profile(self.name, macs, whole, told))

    def profile(self) -> Profile:
        """Everything measured so far as one."""
        count = len(self.sites)
        found = [joined(self.parts[n::count]) for n in range(count)]
        return with_branches(self.model, *found) if count > 1 else found[0]


def measurable(model: Any, sites: Sequence[Site]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Those of `sites` that a ModelPatcher's model can be measured at, and a sentence for its branches if they are out of reach.

    Raises CacheError if its blocks are.
    """
    network, passed = model.model.diffusion_model, model.model_options.get("transformer_options", {})
    compiled = options.is_compiled(passed) or options.is_compiled({"wrappers": model.wrappers})
    reasons = {site: unreachable(network, p.block_profile(Changes(), site), compiled) for site in sites if site.inside}
    if (reason := reasons.get(Site.BLOCK)) is not None:
        raise CacheError(
            f"{reason} The networks whose blocks can be measured are {', '.join(NETWORKS)}. Connect a model of one of these; Encore's "
            "own node speeds up any model."
        )
    notes = tuple(f"{reason} The blocks were measured as wholes." for reason in reasons.values() if reason is not None)
    return tuple(site for site in sites if reasons.get(site) is None), notes


def stayed(recipe: Recipe, ledger: Ledger) -> Ledger:
    """The ledger of a sampling that was measured by `recipe`. Raises CacheError if it had to leave the network."""
    told = outside(recipe)[1]
    reasons = [note.removesuffix(told) for note in ledger.notes if note.endswith(told)]
    if reasons:
        raise CacheError(f"{reasons[0]}So the model could not be measured. Bypass the nodes that change it, and measure again.")
    return ledger


def with_branches(model: Any, blocks: Profile, branches: Profile) -> Profile:
    """The profile of a ModelPatcher's blocks with that of their branches beside it; says where two branches are made in one."""
    network = model.model.diffusion_model
    known = blocks_of(network)
    kinds = [kind for kind, _ in known.keys(network)] if known else []
    return replace(blocks.beside(branches), joint=joint_of(network, kinds, p.block_profile(Changes(), Site.BRANCH)))


def profiled(sampling: Sampling, measurement: Measurement, trajectories: int, seed: int, bar: Any) -> Profile:
    """The profile of so many samplings; `bar` is updated at each of their steps."""
    told = {**about(sampling), "seed": seed}
    for number in range(trajectories):
        for site in measurement.sites:
            with measurement.through(site, told) as model:
                sampling.run(model, seed + number, number, bar)
    return measurement.profile()


def cost(measurement: Measurement, latent: Sequence[int], trajectories: int, steps: int, positive: Any, cfg: float) -> str:
    """What a measurement of so many trajectories will cost, for people: samplings, and memory while one `latent` is sampled.

    `latent` [B, C, (F,) H, W] holds B trajectories, `positive` are the host's conditions.
    """
    kept = forecast_bytes(measurement, latent, max((cond[0].shape[1] for cond in positive), default=0), cfg)
    beside = "in RAM" if measurement.placement.device == torch.device("cpu") else "beside the model"
    told = f"{trajectories * len(measurement.sites)} uncached samplings of {steps} steps"
    return f"{told}, {kept / 2**20:.3g} MiB kept {beside}"


def forecast_bytes(measurement: Measurement, latent: Sequence[int], text: int, cfg: float) -> int:
    """Bytes that a measurement keeps at once: one step's residuals of each condition, of a `latent` and so many tokens of text."""
    recipes = [p.block_profile(Changes(), site, measurement.placement) for site in measurement.sites]
    extents = [extent_of(measurement.model, recipe, latent, text, 1 if cfg == 1.0 else 2) for recipe in recipes]
    return max(kept_bytes(recipe, extent) for recipe, extent in zip(recipes, extents, strict=True) if extent is not None)


def student(model: Any, schedule: BlockSchedule, lesson: Lesson, placement: Placement | None = None) -> Any:
    """A clone of `model` that samples by `schedule` and lets the lesson's pupil learn at every evaluation.

    Raises CacheError for a model on which nothing can be learned, and for a schedule with nothing to align.
    """
    check(model, schedule)
    network = model.model.diffusion_model
    known = blocks_of(network)
    if known is None or not known.wraps:
        raise CacheError(
            f"{type(network).__name__} is not called through ComfyUI's wrappers, so no alignment can be learned on it. Use the schedule "
            "without an alignment."
        )
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
