"""One sampling by two models: hand-over at a noise level, offloading, and the report of both as one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview  # type: ignore[import-not-found, unused-ignore]
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cache_core import CacheError, Entry, Ledger
from ...cache_core.published import measure
from . import options, reports, residence
from .host import attach


@dataclass(frozen=True, slots=True)
class Leg:
    """A model with its prompts and guidance."""

    model: Any  # ModelPatcher
    positive: Any
    negative: Any
    cfg: float


@dataclass(frozen=True, slots=True)
class Course:
    """The steps of the whole sampling, which both models share."""

    seed: int
    steps: int
    sampler: str
    scheduler: str
    sigma: float  # steps that begin at this noise level or above are the first model's


def run(first: Leg, second: Leg, course: Course, latent: Mapping[str, Any]) -> tuple[dict[str, Any], Ledger]:
    """Sample `latent` from noise: its samples denoised, and one ledger of both.

    Each half is what a KSamplerAdvanced does; both take their noise levels from the first model. Models without Encore are measured.
    """
    _check(first.model, second.model)
    sigmas = _sigmas(first.model, course)
    begun = handover(sigmas, course.sigma)
    samples = comfy.sample.fix_empty_latent_channels(first.model, latent["samples"], *_ratios(latent))
    noise = comfy.sample.prepare_noise(samples, course.seed, latent.get("batch_index"))
    ledgers = []
    for leg, begin, end in ((first, 0, begun), (second, begun, len(sigmas) - 1)):
        if begin == end:
            continue
        given = noise if begin == 0 else torch.zeros_like(noise)
        samples = _half(leg, course, (sigmas, begin, end), given, samples, latent.get("noise_mask"))
        ledgers.append((reports.find(samples)[0], begin))
        if leg is first and end < len(sigmas) - 1 and not first.model.is_clone(second.model):
            residence.offload(first.model)
    ledger = joined(ledgers, len(sigmas) - 1, f"Handed over before step {begun} of {len(sigmas) - 1}, at sigma {float(sigmas[begun]):.4f}.")
    reports.publish(samples, ledger)
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return kept | {"samples": samples}, ledger


def handover(sigmas: Tensor, sigma: float) -> int:
    """The first step that is the second model's: the first one to begin below `sigma`."""
    return int((sigmas[:-1] >= sigma).sum())


def joined(ledgers: Sequence[tuple[Ledger, int]], steps: int, note: str) -> Ledger:
    """One ledger of the halves, each with the step it begins at."""
    entries: list[Entry] = []
    for ledger, begin in ledgers:
        before = len(entries)
        entries += [replace(entry, evaluation=before + entry.evaluation, step=begin + entry.step) for entry in ledger.entries]
    parts = [ledger for ledger, _ in ledgers]
    return Ledger(
        recipe="Relay: " + ", then ".join(part.recipe for part in parts),
        source="; ".join(sorted({part.source for part in parts if part.source})),
        site=parts[-1].site,
        steps=steps,
        sampler=parts[-1].sampler,
        seconds=sum(part.seconds for part in parts),
        counted=all(part.counted for part in parts),
        peak_bytes=max(part.peak_bytes for part in parts),
        notes=[note, *(text for part in parts for text in part.notes)],
        entries=entries,
    )


def _check(first: Any, second: Any) -> None:
    """Both must speak of the same latents."""
    formats = [model.get_model_object("latent_format") for model in (first, second)]
    kinds = [(type(one).__name__, one.latent_channels) for one in formats]
    if kinds[0][1] != kinds[1][1] or kinds[0][0] != kinds[1][0]:
        found = " and ".join(f"{name} with {channels} channels" for name, channels in kinds)
        raise CacheError(f"Both models of a relay must have one latent space; found {found}. Choose models that share their VAE.")


def _sigmas(model: Any, course: Course) -> Tensor:
    settings = {"sampler": course.sampler, "scheduler": course.scheduler, "model_options": model.model_options}
    sampler = comfy.samplers.KSampler(model, course.steps, model.load_device, **settings)
    sigmas: Tensor = sampler.sigmas
    return sigmas


def _ratios(latent: Mapping[str, Any]) -> list[Any]:
    """What newer hosts note in an empty latent so that it fits any model."""
    return [latent[key] for key in ("downscale_ratio_spacial", "downscale_ratio_temporal") if key in latent]


def _half(leg: Leg, course: Course, part: tuple[Tensor, int, int], noise: Tensor, samples: Tensor, noise_mask: Any) -> Tensor:
    """The steps from `begin` to `end`, as KSamplerAdvanced samples them."""
    sigmas, begin, end = part
    model = leg.model if leg.model.get_wrappers(WrappersMP.OUTER_SAMPLE, options.KEY) else attach(leg.model, measure())
    done: Tensor = comfy.sample.sample(
        model, noise, course.steps, leg.cfg, course.sampler, course.scheduler, leg.positive, leg.negative, samples,
        disable_noise=begin > 0, start_step=begin, last_step=end, sigmas=sigmas.clone(), noise_mask=noise_mask,
        callback=_progress(model, begin, len(sigmas) - 1), disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=course.seed,
    )  # fmt: skip
    return done


def _progress(model: Any, begin: int, steps: int) -> Callable[[int, Any, Any, int], None]:
    """The host's bar and preview, over the steps of both models."""
    shown = latent_preview.prepare_callback(model, steps)

    def progress(step: int, x0: Any, x: Any, _total: int) -> None:
        shown(begin + step, x0, x, steps)

    return progress
