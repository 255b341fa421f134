"""The class-conditional demo DiTs, with skip branches and without, as courses of a benchmark."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ..cache_core import CacheError
from ..demo import codec, judge
from ..demo.agreement import HELD_OUT, Setting
from ..demo.models import WEIGHTS
from ..demo.skip.classes import NAMES, NONE, draw
from ..demo.world import SIDE, Scene
from ..nodes.adapters import dit
from ..nodes.adapters.host import attach
from .contest import Course, Entrant, Progress, Result, timed
from .metrics import Score, features_of, fidelity

TWINS = ("dit-skip", "dit")
SETTING = Setting(cfg=2.0)


@dataclass(frozen=True, slots=True)
class Labelled(Course):
    """Held-out noise and labels in place of prompts. Timed on a whole batch: one picture of 64 tokens is mostly Python."""

    def race(self, results: Sequence[Result], rounds: int, progress: Progress) -> None:
        for number in range(rounds):
            for result in results:
                entrant = result.entrant
                cached = attach(self.model, entrant.recipe) if entrant.recipe else self.model
                self._sample(timed(cached, result.seconds), self.scenes[: self.batch], entrant, number, progress)

    def rate(self, result: Result, frames: Tensor, uncached: Tensor) -> None:
        rows = zip(self.scenes, frames, uncached, strict=True)
        result.scores = [score(scene, ours, theirs) for scene, ours, theirs in rows]

    @torch.inference_mode()
    def _sample(self, model: Any, scenes: Sequence[Scene], entrant: Entrant, seed: int, progress: Progress) -> Tensor:
        latent, setting = torch.zeros(len(scenes), 16, SIDE // codec.BLOCK, SIDE // codec.BLOCK), entrant.setting
        labels = [label_of(scene) for scene in scenes]
        samples = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, HELD_OUT + seed),
            setting.steps,
            setting.cfg,
            setting.sampler,
            setting.scheduler,
            dit.condition(labels),
            dit.condition([NONE] * len(labels)),
            latent,
            callback=lambda *_: progress(len(scenes)),
            disable_pbar=True,
            seed=HELD_OUT + seed,
        )
        return codec.decode(model.model.latent_format.process_in(samples.float().cpu())[:, :, None])


def make(family: str, prompts: int, batch: int) -> Course:
    """Load a twin and draw held-out scenes, each class in turn."""
    file = WEIGHTS / f"demo-{family}.safetensors"
    if not file.exists():
        raise CacheError(f"{file.name} is not there. Make it, and its twin, with: python -m demo.skip.train")
    rng = random.Random(HELD_OUT)
    scenes = tuple(draw(n % NONE, rng) for n in range(prompts))
    return Labelled(family, dit.load(file), scenes, batch)


def label_of(scene: Scene) -> int:
    """The class of a scene of one."""
    thing = scene.things[0]
    return NAMES.index(f"{thing.colour} {thing.kind}")


def score(scene: Scene, frames: Tensor, uncached: Tensor) -> Score:
    """As for prompts; a picture agrees with its class as far as its two surest things have the kind and the colour."""
    seen = judge.read(judge.as_pictures(frames[None]))[0].things[:2]
    wanted = scene.things[0]
    hits = sum((thing.kind == wanted.kind) + (thing.colour == wanted.colour) for thing in seen)
    return Score(**fidelity(frames, uncached), agreement=hits / 4, features=features_of(frames))
