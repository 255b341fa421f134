"""`./encore blockcache`: Block Caching's files of a demo model, from prompts that no benchmark reports on."""

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..cache_core.blockcache import Alignment, BlockSchedule, Profile, Rollouts, Training, for_reduction
from ..cache_core.blockcache import schedule as schedule_for
from ..cache_core.blockcache.profile import load as load_profile
from ..cache_core.blockcache.schedule import load as load_schedule
from ..cache_core.blockcache.weigh import TRIALS
from ..demo import codec
from ..demo.agreement import DEFAULTS, HELD_OUT, Setting, conditions, load_model, sample
from ..demo.train import STATE
from ..demo.world import FRAMES, SIDE, Scene, draw_scene
from ..nodes.adapters.analysis import analysed, samplings
from ..nodes.adapters.blockcache import Measurement, cost, student, weighed
from ..nodes.adapters.calibrate import fingerprint
from ..nodes.adapters.lessons import Lesson
from ..nodes.blockcache.analysis_plot import analysis_plot
from ..nodes.blockcache.plots import loss_plot
from .contest import weights
from .output import write

PROMPTS = HELD_OUT << 2  # seed of prompts and noise, out of reach of the held-out ones
FEW = 8  # trajectories of a small profile
DOCS = Path(__file__).parents[1] / "docs"  # where the figures of an analysis go, without another folder
SHIPPED = Path(__file__).parents[1] / "demo" / "blockcache"


@dataclass(frozen=True, slots=True)
class Order:
    """What is made of a demo model, from `trajectories` of the profile, `rollouts` of the fit, `iterations` of the training.

    Alignments are weighed on `weighing` prompts.
    """

    family: str
    trajectories: int = 64
    reduction: float = 1.9
    rollouts: int = 32
    iterations: int = 120
    weighing: int = 16
    steps: int = 50
    batch: int = 8
    half: bool = False  # products in bfloat16 while an alignment is trained
    checkpointed: bool = False  # and each block computed again in the backward pass
    folder: Path = SHIPPED

    @property
    def name(self) -> str:
        """Of the model and of its files."""
        return f"demo-{self.family}"

    @property
    def setting(self) -> Setting:
        """How it is sampled."""
        return replace(DEFAULTS[self.family], steps=self.steps)

    def load(self) -> Any:
        """The model."""
        return load_model(weights(self.family), DEFAULTS[self.family].shift)

    def path(self, kind: str, suffix: str = "") -> Path:
        """The file of a kind."""
        return self.folder / kind / f"{self.name}{suffix}.safetensors"

    def scenes(self, count: int, seed: int) -> list[Scene]:
        """Prompts that nothing reports on."""
        rng = random.Random(PROMPTS + seed)
        return [draw_scene(rng, self.family == "wan") for _ in range(count)]

    def sample(self, model: Any, scenes: Sequence[Scene], seed: int, bar: Any) -> Tensor:
        """Sample prompts together: frames [N, F, 64, 64, 3] in 0..1."""
        return sample(model, self.family, scenes, self.setting, PROMPTS + seed, bar.update)

    def weighed(self, model: Any, schedule: BlockSchedule, found: Alignment, bar: Any) -> Alignment:
        """An alignment weighed on prompts that it was not learned from."""
        scenes, starts = self.scenes(self.weighing, 4000), range(0, self.weighing, self.batch)
        groups = [(scenes[start : start + self.batch], 4000 + number) for number, start in enumerate(starts)]
        return weighed(model, schedule, found, lambda each: torch.cat([self.sample(each, *group, bar) for group in groups]))

    @property
    def trials(self) -> int:
        """Steps that this takes at most."""
        return TRIALS * self.steps * -(-self.weighing // self.batch)

    def about(self, model: Any, **more: Any) -> dict[str, Any]:
        """What is written into a file of where it comes from."""
        setting = self.setting
        return {"cfg": setting.cfg, "sampler": setting.sampler, "scheduler": setting.scheduler} | fingerprint(model) | more


def make(what: Sequence[str], order: Order) -> int:
    """Make files in their order, each from the ones before it; 0."""
    model = order.load()
    for one in what:
        words = MAKERS[one](order, model)
        print(f"{order.name}, {one}: {words}", flush=True)
    return 0


def make_profile(order: Order, model: Any) -> str:
    """The profile of so many prompts, a seed each."""
    began = time.perf_counter()
    found = measure(order, model, order.trajectories)
    found.save(order.path("profiles"))
    part = float((found.spread[:, 1:] / found.mean[:, 1:].clamp_min(1e-9)).mean())
    return f"{found.trajectories} trajectories in {time.perf_counter() - began:.0f} s, spread {100 * part:.0f} % of the mean"


def measure(order: Order, model: Any, trajectories: int, branches: bool = False) -> Profile:
    """A profile of `model`, a batch at a time."""
    measurement, scenes = Measurement(order.name, model, branches), order.scenes(trajectories, 0)
    groups = [scenes[start : start + order.batch] for start in range(0, trajectories, order.batch)]
    positive, _, latent = conditions(order.family, groups[0], order.setting)
    told = cost(measurement, latent.shape, trajectories, order.steps, positive, order.setting.cfg)
    print(f"{order.name}, profile: {told}", flush=True)
    with tqdm(total=len(groups) * len(measurement.sites) * order.steps, desc="profile", unit="step", disable=None) as bar:
        for number, group in enumerate(groups):
            for site in measurement.sites:
                with measurement.through(site, order.about(model)) as watched:
                    order.sample(watched, group, number, bar)
    return measurement.profile()


def make_schedule(order: Order, model: Any) -> str:
    """The schedule of the wanted saving, and how far that of a few of the profile's trajectories is from it."""
    profile = load_profile(order.path("profiles"))
    found = for_reduction(profile, order.reduction)
    found.save(order.path("schedules"))
    told = f"delta {found.delta:.4g}, {found.reduction:.3f}x fewer MACs, {[len(steps) for steps in found.computed]} of {found.steps} steps"
    if profile.trajectories <= FEW:
        return told
    other = found.unlike(schedule_for(profile.first(FEW), found.delta))
    return f"{told}; that of the first {FEW} of {profile.trajectories} trajectories differs in {100 * other:.1f} % of the cells"


def make_fit(order: Order, model: Any) -> str:
    """The alignment in closed form."""
    found = fit(order, model, load_schedule(order.path("schedules")))
    found.save(order.path("alignments", "-fit"))
    return words(found)


def fit(order: Order, model: Any, schedule: BlockSchedule) -> Alignment:
    """Roll-outs of prompts, a batch at a time."""
    pupil, began, scenes = Rollouts(), time.perf_counter(), order.scenes(order.rollouts, 1)
    taught = student(model, schedule, Lesson(pupil, schedule.cached))
    groups = [scenes[start : start + order.batch] for start in range(0, len(scenes), order.batch)]
    with tqdm(total=len(groups) * order.steps + order.trials, desc="fit", unit="step", disable=None) as bar:
        for number, group in enumerate(groups):
            order.sample(taught, group, 1000 + number, bar)
        found = order.weighed(model, schedule, pupil.alignment(f"{order.name}-fit", schedule.digest, {}), bar)
    seconds = round(time.perf_counter() - began, 1)
    return replace(found, about={**order.about(model, rollouts=order.rollouts, seconds=seconds), **found.about})


def make_training(order: Order, model: Any) -> str:
    """The alignment trained as published; goes on from where a training of this schedule was stopped."""
    schedule, state = load_schedule(order.path("schedules")), STATE / f"blockcache-{order.name}.safetensors"
    pupil = Training(schedule.cached, schedule=schedule.digest, model=fingerprint(model))
    if state.exists():
        pupil.load(state)
    found = train(order, model, schedule, pupil, state)
    path = order.path("alignments", "-train")
    found.save(path)
    draw(loss_plot(pupil.losses, f"{path.stem}: loss"), path.with_suffix(".png"))
    return f"{words(found)} Loss {pupil.losses[0]:.3g} to {pupil.losses[-1]:.3g}"


def train(order: Order, model: Any, schedule: BlockSchedule, pupil: Training, state: Path) -> Alignment:
    """Roll-outs up to the wanted number, the state saved after each; their prompts depend on the number alone."""
    taught = student(model, schedule, Lesson(pupil, schedule.cached, order.checkpointed))
    with tqdm(total=(order.iterations - pupil.rollouts) * order.steps + order.trials, desc="train", unit="step", disable=None) as bar:
        while pupil.rollouts < order.iterations:
            began, number = time.perf_counter(), 2000 + pupil.rollouts
            with torch.autocast("cpu", torch.bfloat16, enabled=order.half):
                order.sample(taught, order.scenes(order.batch, number), number, bar)
            pupil.finish(time.perf_counter() - began)
            pupil.save(state)
            bar.set_postfix(loss=f"{pupil.losses[-1]:.3g}")
        told = order.about(model, rollouts=pupil.rollouts * order.batch, iterations=pupil.rollouts, seconds=round(pupil.seconds, 1))
        return order.weighed(model, schedule, pupil.alignment(f"{order.name}-train", schedule, told), bar)


def make_analysis(order: Order, model: Any) -> str:
    """What the model repeats from step to step: a figure and its numbers beside it."""
    side = SIDE // codec.BLOCK
    shape = [order.batch, 16, *([FRAMES] if order.family == "wan" else []), side, side]
    groups = -(-order.trajectories // order.batch)
    with tqdm(total=groups * samplings(model) * order.steps, desc="analysis", unit="step", disable=None) as bar:

        def run(watched: Any, number: int) -> None:
            order.sample(watched, order.scenes(order.batch, 3000 + number), number, bar)

        found = analysed(order.name, model, shape, run, groups, order.about(model))
    picture = (DOCS if order.folder == SHIPPED else order.folder) / f"analysis_{order.family}.png"
    draw(analysis_plot(found), picture)
    write(picture.with_suffix(".json"), {"model": order.name, "trajectories": found.profile.trajectories, **found.numbers()})
    told = f"{found.profile.trajectories} trajectories, {picture.name} and {picture.with_suffix('.json').name}"
    return ". ".join((told, *found.notes))


def draw(picture: Tensor, path: Path) -> None:
    """Write a picture [1, H, W, 3] in 0..1 to `path`, a PNG, whole or not at all."""
    part = path.with_suffix(".part")
    Image.fromarray((255 * picture[0]).round().byte().numpy()).save(part, "PNG", optimize=True)
    os.replace(part, path)


def words(found: Alignment) -> str:
    """An alignment for people."""
    scale, shift = found.rows.abs().mean((0, 2)).tolist()
    told = found.about
    return (
        f"{len(found.cells)} cells from {told['rollouts']} roll-outs in {told['seconds']} s, mean |scale| {scale:.3g}, |shift| {shift:.3g}."
    )


MAKERS: dict[str, Callable[[Order, Any], str]] = {
    "profile": make_profile,
    "schedule": make_schedule,
    "fit": make_fit,
    "train": make_training,
    "analysis": make_analysis,
}
