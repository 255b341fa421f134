"""Samples uncached with the host's own sampler and collects the trajectories that a calibration is made of."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils

from ...cache_core.published import collect as collecting
from ...cache_core.trace import Calibration, Statistics, Trajectory
from .families import family_of
from .host import attach


@dataclass(frozen=True, slots=True)
class Sampling:
    """The arguments of a KSampler, seed and denoise left out."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    @staticmethod
    def samplers() -> list[str]:
        """The host's samplers."""
        return list(comfy.samplers.KSampler.SAMPLERS)

    @staticmethod
    def schedulers() -> list[str]:
        """The host's schedulers."""
        return list(comfy.samplers.KSampler.SCHEDULERS)

    @staticmethod
    def check() -> None:
        """Raise if the user cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()

    def run(self, seed: int, prompt: int, into: Trajectory, bar: Any) -> None:
        """One sampling from noise, with the positive condition number `prompt` alone."""
        latent = comfy.sample.fix_empty_latent_channels(self.model, self.latent["samples"])
        positive = [self.positive[prompt % len(self.positive)]]
        comfy.sample.sample(
            attach(self.model, collecting(into)),
            comfy.sample.prepare_noise(latent, seed),
            self.steps,
            self.cfg,
            self.sampler_name,
            self.scheduler,
            positive,
            self.negative,
            latent,
            callback=lambda *_: bar.update(1),
            disable_pbar=True,
            seed=seed,
        )


def collect(sampling: Sampling, trajectories: int, seed: int, levels: tuple[int, ...]) -> Statistics:
    """Statistics of so many samplings, which follow one another; the progress bar counts their steps."""
    bar = comfy.utils.ProgressBar(trajectories * sampling.steps)
    total: Statistics | None = None
    for number in range(trajectories):
        into = Trajectory()
        sampling.run(seed + number, number, into, bar)
        found = into.statistics(levels, 0.0)
        total = found if total is None else total.and_(found)
    assert total is not None, "one trajectory at least"
    return total


def fingerprint(model: Any) -> dict[str, str]:
    """What a calibration must have in common with a model (ModelPatcher): its family and size, and the LoRAs on it."""
    network = model.model.diffusion_model
    size = sum(parameter.numel() for parameter in network.parameters())
    patches = hashlib.blake2b(repr(sorted(map(str, getattr(model, "patches", {})))).encode(), digest_size=8).hexdigest()
    return {"family": family_of(model), "network": type(network).__name__, "parameters": str(size), "patches": patches}


def about(sampling: Sampling) -> dict[str, Any]:
    """What is written into a calibration of where it comes from."""
    shape = list(sampling.latent["samples"].shape[2:])
    settings = {"cfg": sampling.cfg, "sampler": sampling.sampler_name, "scheduler": sampling.scheduler, "size": shape}
    return settings | fingerprint(sampling.model)


def mismatch(model: Any, calibration: Calibration) -> Sequence[str]:
    """Notes for the report where a calibration was made on another model or with other LoRAs."""
    ours, theirs = fingerprint(model), calibration.about
    words = {"network": "another network", "parameters": "a network of another size", "patches": "other LoRAs"}
    other = [text for key, text in words.items() if key in theirs and theirs[key] != ours[key]]
    return [f"The calibration {calibration.name!r} was made with {' and '.join(other)}."] if other else []
