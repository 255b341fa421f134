"""Samples uncached with the host's own sampler and collects the trajectories that a calibration is made of."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor
from tqdm import tqdm

from ...cache_core import CacheError
from ...cache_core import published as recipes
from ...cache_core.solver import Solver
from ...cache_core.trace import Calibration, Kept, Shelf, Statistics, Trajectory, calibrated, rehearsed
from ...cache_core.trace.bands import LEVELS
from ...cache_core.trace.collect import visits
from ...cache_core.trace.rehearse import spared
from . import options
from .families import family_of
from .host import attach
from .solvers import shown, solver_of
from .told import digest, few, numbers, told
from .visit import visit

VECTORS = 32  # small parameters that a model is told by
FEWEST = 8  # steps of a sampling to learn from
WHOLE = 0.9  # part of the noisiest level that it has to start at


@dataclass(frozen=True, slots=True)
class Sampling:
    """The arguments of a KSampler, seed and denoise left out, or of a SamplerCustom: `sampler` and `sigmas` come before their names."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    sampler: Any = None  # of the host, with the name `sampler_name`
    sigmas: Tensor | None = None  # steps + 1 noise levels

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

    @property
    def start(self) -> Tensor:
        """The empty latent [B, C, (F,) H, W] with as many channels as the model has."""
        latent: Tensor = comfy.sample.fix_empty_latent_channels(self.model, self.latent["samples"])
        return latent

    @classmethod
    def custom(cls, sampler: Any = None, sigmas: Tensor | None = None, **settings: Any) -> "Sampling":
        """With a SAMPLER or SIGMAS, if there are any, in place of a name. Raises CacheError for too few noise levels, or a late start."""
        if sampler is not None:
            settings["sampler_name"] = options.sampler_name(sampler)
        if sigmas is not None:
            settings["steps"] = len(sigmas) - 1
            if settings["steps"] < FEWEST:
                raise CacheError(
                    f"A calibration takes {FEWEST + 1} noise levels or more, and these sigmas are {len(sigmas)}. Use more steps."
                )
            if not WHOLE * (top := noisiest(settings["model"])) <= float(sigmas[0]):
                raise CacheError(
                    f"A calibration samples from pure noise, at {top:.3g}, and these sigmas start at {float(sigmas[0]):.3g}. "
                    "Give those of a whole sampling, or of its first part."
                )
        return cls(sampler=sampler, sigmas=sigmas, **settings)

    def solver(self, levels: Sequence[float]) -> Solver | None:
        """How it steps over these noise levels, or None where that is not known: then no plan can be rehearsed."""
        return solver_of(self.sampler or comfy.samplers.sampler_object(self.sampler_name), levels, self.model.model)

    @property
    def end(self) -> float:
        """The noise level that it ends at."""
        return 0.0 if self.sigmas is None else float(self.sigmas[-1])

    def prompt(self, number: int) -> list[Any]:
        """The positive condition of that number alone; after the last comes the first again."""
        return [self.positive[number % len(self.positive)]]

    def run(self, model: Any, seed: int, prompt: int, bar: Any) -> Tensor:
        """Sample once from noise with `model`, a clone of ours, and the positive condition number `prompt` alone: the latent at the end."""

        def stepped(*_: Any) -> None:
            self.check()
            bar.update(1)

        latent, positive = self.start, self.prompt(prompt)
        noise, more = comfy.sample.prepare_noise(latent, seed), {"callback": stepped, "disable_pbar": True, "seed": seed}
        if self.sampler is None and self.sigmas is None:
            told = (self.steps, self.cfg, self.sampler_name, self.scheduler, positive, self.negative, latent)
            plain: Tensor = comfy.sample.sample(model, noise, *told, **more)
            return plain
        sampler = self.sampler or comfy.samplers.sampler_object(self.sampler_name)
        result: Tensor = comfy.sample.sample_custom(
            model, noise, self.cfg, sampler, self._levels(model), positive, self.negative, latent, **more
        )
        return result

    def _levels(self, model: Any) -> Tensor:
        if self.sigmas is not None:
            return self.sigmas
        levels: Tensor = comfy.samplers.KSampler(model, self.steps, model.load_device, self.sampler_name, self.scheduler).sigmas
        return levels


@dataclass(frozen=True, slots=True)
class Recorded:
    """The trajectories on a shelf as a rehearsal's stage: each is a batch, and visited alone."""

    sampling: Sampling
    shelf: Shelf
    sigmas: tuple[float, ...]
    solver: Solver | None
    batches: int
    bar: "Progress"

    def start(self, number: int) -> Tensor:
        """The trajectory's starting latent."""
        return self.shelf.start(number)

    def taught(self, number: int, step: int) -> Tensor:
        """Its uncached velocity at a step."""
        return self.shelf.velocity(number, step)

    @torch.inference_mode()
    def visit(self, number: int, x: Tensor, sigma: float) -> Tensor:
        """The model's velocity at `x`."""
        self.sampling.check()
        self.bar.update(1)
        sampling = self.sampling
        return visit(sampling.model, x, sigma, sampling.cfg, sampling.prompt(number), sampling.negative, sampling.start)


def calibrate(
    sampling: Sampling, name: str, trajectories: int, seed: int, speeds: Sequence[float], shelf: Shelf, minutes: float = 0.0
) -> Calibration:
    """Sample so many prompts uncached, learn from them, and rehearse a plan for each of `speeds` on the same prompts.

    What is sampled stays on the `shelf`, so that a calibration that was cancelled goes on; it is cleared when all is done.
    Plans are fitted to the sampler's own steps where its rule is known, and to Euler's, unrehearsed, where it is not. So many `minutes`
    after the samplings no better masks are searched any more, unless it is 0. Raises CacheError where another cache is on the model.
    """
    rival = options.rival(sampling.model.model_options.get("transformer_options", {}))
    if rival is not None:
        raise CacheError(f"Another cache is on this model ({rival}), and a calibration needs every step. Remove EasyCache or LazyCache.")
    bar = Progress(trajectories * (sampling.steps + visits(sampling.steps, speeds)))

    def teacher(number: int) -> Kept:
        kept = shelf.get(number, LEVELS)
        if kept is not None:
            bar.update(sampling.steps)
            return kept
        into = Trajectory()
        sampling.run(attach(sampling.model, recipes.collect(into)), seed + number, number, bar)
        return shelf.put(number, into, LEVELS, sampling.end)

    each = [teacher(number).statistics for number in range(trajectories)]
    total = reduce(Statistics.and_, each)
    out, rows = spared(trajectories * len(sampling.start)), len(sampling.start)
    seen = [one for number, one in enumerate(each) if not any(out[rows * number : rows * (number + 1)])]
    watch = _until(time.monotonic() + 60 * minutes if minutes > 0.0 else math.inf, sampling.check)
    levels = (*total.sigmas, total.end)
    solver = sampling.solver(levels)
    found = calibrated(name, total, about(sampling), watch=watch, solver=shown(solver, levels))
    stage = Recorded(sampling, shelf, levels, shown(solver, levels), trajectories, bar)
    found = rehearsed(found, speeds if solver else (), stage, watch=watch, fitted=reduce(Statistics.and_, seen or each))
    bar.close()
    shelf.clear()
    return found


def _until(end: float, check: Callable[[], None]) -> Callable[[], bool]:
    """What a search asks at every try: whether it is later than `end` (seconds); `check` may raise."""

    def watch() -> bool:
        check()
        return time.monotonic() > end

    return watch


def shelf_of(sampling: Sampling, seed: int, folder: Path) -> Shelf:
    """The shelf of a calibration; its key tells what the trajectories depend on."""
    prompts = [[conditioning_digest(entry) for entry in side] for side in (sampling.positive, sampling.negative)]
    schedule = sampling.scheduler if sampling.sigmas is None else sampling.sigmas.tolist()
    return Shelf(folder, json.dumps([about(sampling), schedule, sampling.steps, seed, prompts]))


def conditioning_digest(entry: Any) -> str:
    """Of one entry of a CONDITIONING: all numbers and words of its text and its options."""
    return digest(repr(told(entry, numbers)).encode())


def bytes_needed(sampling: Sampling, trajectories: int) -> int:
    """What the shelf will take, in bytes."""
    return 2 * (sampling.steps + 1) * trajectories * sampling.start.numel()


class Progress:
    """The host's progress bar on the node, and one with the time left in the console."""

    def __init__(self, total: int) -> None:
        self._node = comfy.utils.ProgressBar(total)
        self._console = tqdm(total=total, desc="Encore Calibrate", unit="step")

    def update(self, steps: int) -> None:
        self._node.update(steps)
        self._console.update(steps)

    def close(self) -> None:
        self._console.close()


def fingerprint(model: Any) -> dict[str, str]:
    """What a calibration must have in common with a model (ModelPatcher): its network, some of its weights, the patches on it.

    A patch is told by its strengths and a few of its numbers, so LoRAs on the same layers are told apart.
    """
    network = model.model.diffusion_model
    size = sum(parameter.numel() for parameter in network.parameters())
    patches = [(str(key), [_patch(patch) for patch in found]) for key, found in getattr(model, "patches", {}).items()]
    weights = [f"{value:.2g}" for vector in _vectors(network) for value in vector.detach().flatten()[:4].float().tolist()]
    return {
        "family": family_of(model),
        "network": type(network).__name__,
        "parameters": str(size),
        "patches": digest(repr(sorted(patches)).encode()),
        "weights": digest(" ".join(weights).encode()),
    }


def noisiest(model: Any) -> float:
    """The noise level that a whole sampling of a model (ModelPatcher) starts from."""
    return float(model.get_model_object("model_sampling").sigma_max)


def _vectors(network: Any) -> list[Any]:
    """Biases and norms: LoRAs leave them alone, finetunings do not, and they are seldom quantised."""
    return [parameter for parameter in network.parameters() if parameter.ndim == 1 and parameter.is_floating_point()][:VECTORS]


def _patch(patch: Sequence[Any]) -> list[Any]:
    """Of one of the host's patches: its strength, what it adds, the strength of what it adds to, and where."""
    strength, added, kept, *where = patch
    return [round(float(strength), 4), told(added, few), round(float(kept), 4), told(where[:1], few)]


def described(model: Any, cfg: float, sampler: str, shape: Sequence[int]) -> dict[str, Any]:
    """What is written into a calibration of where it comes from; `shape` is the latent's [B, C, ...]."""
    return {"cfg": cfg, "sampler": sampler, "size": list(shape[2:])} | fingerprint(model)


def about(sampling: Sampling) -> dict[str, Any]:
    """The same of a sampling."""
    return described(sampling.model, sampling.cfg, sampling.sampler_name, sampling.start.shape)


def mismatch(model: Any, calibration: Calibration) -> Sequence[str]:
    """Notes for the report where a calibration was made on another model or with other LoRAs."""
    ours, theirs = fingerprint(model), calibration.about
    words = {"network": "another network", "parameters": "a network of another size", "weights": "other weights", "patches": "other LoRAs"}
    other = [text for key, text in words.items() if key in theirs and theirs[key] != ours[key]]
    return [f"The calibration {calibration.name!r} was made with {' and '.join(other)}."] if other else []
