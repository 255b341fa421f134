"""Entrants that sample the same prompts from the same noise: their pictures, what they computed, and their seconds."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache_core import Ledger, Recipe
from ..cache_core.measure import Stopwatch
from ..cache_core.published import measure
from ..demo.agreement import DEFAULTS, HELD_OUT, Setting, load_model, sample
from ..demo.models import WEIGHTS
from ..demo.world import Scene, draw_scene
from ..nodes.adapters.host import attach
from .metrics import Score, score

Progress = Callable[[int], object]  # told how many prompts have gone one step further


@dataclass(frozen=True, slots=True)
class Entrant:
    """A way to sample. Without a recipe it is the bare model."""

    method: str
    setting: Setting
    words: str  # the setting, for people
    recipe: Recipe | None = None


@dataclass(slots=True)
class Result:
    """What an entrant did. `scores` are by prompt, `ledgers` by batch of `sizes` prompts, `seconds` by timing round."""

    entrant: Entrant
    scores: list[Score] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def mean(self, of: Callable[[Ledger], float]) -> float:
        """Mean over prompts of what a ledger says."""
        return sum(of(ledger) * size for ledger, size in zip(self.ledgers, self.sizes, strict=True)) / sum(self.sizes)

    @property
    def macs(self) -> float | None:
        """Multiply-accumulates for one prompt, or None if they could not be counted."""
        made = [ledger.macs for ledger in self.ledgers]
        return None if None in made else sum(count for count in made if count) / sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Course:
    """A demo model and the held-out prompts, which neither the trainings nor a calibration see; `batch` of them at once."""

    family: str
    model: Any  # the host's ModelPatcher
    scenes: tuple[Scene, ...]
    batch: int
    added: str = ""  # what was put on the model

    @property
    def name(self) -> str:
        return f"demo-{self.family}{self.added}"

    @property
    def on_cpu(self) -> bool:
        """Whether the model computes on the processor, so that all its time is host time."""
        return bool(self.model.load_device.type == "cpu")

    def frames(self, entrant: Entrant, progress: Progress) -> tuple[Tensor, Result]:
        """Sample all prompts, unscored: frames [N, F, 64, 64, 3] in 0..1. A bare model is looked on while it samples."""
        result, parts = Result(entrant), []
        model = attach(self.model, entrant.recipe or measure(), result.ledgers.append)
        for start in range(0, len(self.scenes), self.batch):
            group = self.scenes[start : start + self.batch]
            parts.append(self._sample(model, group, entrant, start, progress))
            result.sizes.append(len(group))
        return torch.cat(parts), result

    def sampled(self, recipe: Recipe, setting: Setting, seed: int, progress: Progress) -> None:
        """Sample all prompts at once with a recipe that only looks on, from noise of this seed beyond the held-out."""
        self._sample(attach(self.model, recipe), self.scenes, Entrant(recipe.name, setting, ""), seed - HELD_OUT, progress)

    def judge(self, entrant: Entrant, uncached: Tensor, progress: Progress) -> Result:
        """Sample all prompts and score them against the `uncached` frames."""
        frames, result = self.frames(entrant, progress)
        self.rate(result, frames, uncached)
        return result

    def rate(self, result: Result, frames: Tensor, uncached: Tensor) -> None:
        """Score a result's frames, prompt by prompt."""
        rows = zip(self.scenes, frames, uncached, strict=True)
        result.scores = [score(self.family, scene, ours, theirs) for scene, ours, theirs in rows]

    def race(self, results: Sequence[Result], rounds: int, progress: Progress) -> None:
        """Time the denoising loop, one prompt at a time: in each round every entrant in turn samples the same prompt."""
        for number in range(rounds):
            for result in results:
                entrant = result.entrant
                cached = attach(self.model, entrant.recipe) if entrant.recipe else self.model
                self.one(entrant, timed(cached, result.seconds), number, progress)

    def one(self, entrant: Entrant, model: Any, number: int, progress: Progress) -> None:
        """Sample the prompt of round `number` alone, with `model` as it is."""
        self._sample(model, [self.scenes[number % len(self.scenes)]], entrant, number, progress)

    def _sample(self, model: Any, scenes: Sequence[Scene], entrant: Entrant, seed: int, progress: Progress) -> Tensor:
        return sample(model, self.family, scenes, entrant.setting, HELD_OUT + seed, lambda: progress(len(scenes)))


def weights(family: str) -> Path:
    """The file of a demo model."""
    return WEIGHTS / f"demo-{family}.safetensors"


def make_course(family: str, prompts: int, batch: int) -> Course:
    """Load a demo model and draw its held-out prompts."""
    rng = random.Random(HELD_OUT)
    scenes = tuple(draw_scene(rng, family == "wan") for _ in range(prompts))
    return Course(family, load_model(weights(family), DEFAULTS[family].shift), scenes, batch)


def timed(model: Any, seconds: list[float]) -> Any:
    """A clone of `model` that adds the seconds of each of its denoising loops to `seconds`, model loading left out."""
    from comfy.patcher_extension import WrappersMP

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        watch = Stopwatch(args[1].is_cuda)  # sigmas
        result = executor(*args, **kwargs)
        seconds.append(watch.stop().seconds())
        return result

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "encore bench", wrapper)
    return model
