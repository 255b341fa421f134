"""The demo models as TRACE's teachers: calibrations from prompts and noise that no benchmark reports on."""

from dataclasses import dataclass, replace
from functools import cache, reduce
from random import Random
from typing import Any

import torch
from torch import Tensor

from ..cache_core import Schedule
from ..cache_core import published as p
from ..cache_core.solver import Solver
from ..cache_core.trace import Calibration, Statistics, Trajectory, calibrated, load, rehearsed
from ..cache_core.trace.bands import LEVELS, Level
from ..demo.agreement import DEFAULTS, HELD_OUT, Setting, conditions, load_model
from ..demo.world import Scene, draw_scene
from ..nodes.adapters.calibrate import described
from ..nodes.adapters.solvers import named, shown
from ..nodes.adapters.visit import visit
from ..nodes.calibrations import SHIPPED
from . import twins
from .contest import Course, weights

PROMPTS = HELD_OUT << 1  # seed of the calibrations' prompts and noise, out of reach of the held-out ones
TRAJECTORIES = 8
ROLLED = {"flux": 48, "wan": 16}  # of those that are rehearsed: a picture has 256 places here, one of 1024 x 1024 has 16384
# Those that the universal calibration is of: with prompts and with class labels, with CFG and without.
TEACHERS = {**DEFAULTS, "dit-skip": twins.SETTING, "dit": replace(twins.SETTING, cfg=1.0)}


def classroom(family: str, setting: Setting, prompts: int) -> Course:
    """A demo model and `prompts` of its own: a DiT's class labels are all known, so its noise alone is new."""
    if family in twins.TWINS:
        return twins.make(family, prompts, prompts)
    return Course(family, load_model(weights(family), setting.shift), scenes(family, prompts), prompts)


def scenes(family: str, prompts: int) -> tuple[Scene, ...]:
    """Prompts of Flux or Wan that nothing reports on."""
    rng = Random(PROMPTS)
    return tuple(draw_scene(rng, family == "wan") for _ in range(prompts))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Trajectories of a classroom as a rehearsal's stage: a single batch. `told` are its conditions and the empty latent."""

    model: Any
    cfg: float
    told: tuple[list[Any], list[Any], Tensor]
    teacher: Trajectory
    solver: Solver | None = None
    batches: int = 1

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, the one at the end too."""
        return (*self.teacher.sigmas, 0.0)

    def start(self, number: int) -> Tensor:
        """The starting latents."""
        assert self.teacher.start is not None, "something was sampled"
        return self.teacher.start

    def taught(self, number: int, step: int) -> Tensor:
        """Their uncached velocities at a step."""
        return self.teacher.velocities[step]

    @torch.inference_mode()
    def visit(self, number: int, x: Tensor, sigma: float) -> Tensor:
        """The model's velocities at `x`."""
        return visit(self.model, x, sigma, self.cfg, *self.told)


@cache
def recorded(family: str, setting: Setting, trajectories: int = TRAJECTORIES, levels: tuple[Level, ...] = LEVELS) -> Statistics:
    """A demo model's uncached samplings of `trajectories` prompts that nothing reports on."""
    return _teach(family, setting, trajectories)[1].statistics(levels, 0.0)


@cache
def calibration(
    family: str, setting: Setting, trajectories: int = TRAJECTORIES, speeds: tuple[float, ...] = (), mixes: bool = True
) -> Calibration:
    """A demo model's calibration with its masks searched, rehearsed for `speeds` on the same prompts; its channels mix if it `mixes`."""
    room, teacher = _teach(family, setting, trajectories)
    assert teacher.start is not None, "something was sampled"
    about = described(room.model, setting.cfg, setting.sampler, teacher.start.shape)
    levels = (*teacher.sigmas, 0.0)
    solver = named(setting.sampler, levels)
    found = calibrated(f"demo-{family}", teacher.statistics(LEVELS, 0.0), about, solver=shown(solver, levels))
    speeds = speeds if solver is not None else ()  # others cannot be rehearsed
    told = conditions(family, room.scenes, setting)
    seen = teacher.statistics(LEVELS, 0.0, fitted=True)
    return rehearsed(found, speeds, Recorded(room.model, setting.cfg, told, teacher, shown(solver, levels)), mixes=mixes, fitted=seen)


def shipped(family: str, setting: Setting) -> Calibration | None:
    """The calibration of a demo model that comes with Encore, if it was made for `setting`."""
    if setting != TEACHERS[family]:
        return None
    return load(SHIPPED / f"demo-{family}.safetensors")


@cache
def universal(steps: int, without: str = "", trajectories: int = TRAJECTORIES) -> Calibration:
    """The universal calibration, or what it would be if the model `without` had never been seen: no bands, the first one's schedule."""
    seen = {name: replace(one, steps=steps) for name, one in TEACHERS.items() if name != without}
    parts = [recorded(name, one, trajectories).whole() for name, one in seen.items()]
    schedule = Schedule((*parts[0].sigmas, parts[0].end))
    total = reduce(Statistics.and_, [part.at(schedule) for part in parts])
    return calibrated("universal", total, {"models": [f"demo-{name}" for name in seen]})


@cache
def _teach(family: str, setting: Setting, trajectories: int) -> tuple[Course, Trajectory]:
    """A classroom, and one uncached sampling of all its prompts."""
    room, teacher = classroom(family, setting, trajectories), Trajectory()
    room.sampled(p.collect(teacher), setting, PROMPTS, lambda prompts: None)
    return room, teacher
