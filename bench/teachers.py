"""The demo models as TRACE's teachers: calibrations from prompts and noise that no benchmark reports on."""

from dataclasses import replace
from functools import cache, reduce
from random import Random

from ..cache_core import Schedule
from ..cache_core import published as p
from ..cache_core.trace import Calibration, Plan, Rehearsal, Statistics, Trajectory, calibrated, rehearsed
from ..cache_core.trace.bands import LEVELS
from ..demo.agreement import DEFAULTS, HELD_OUT, Setting, load_model
from ..demo.world import draw_scene
from ..nodes.adapters.calibrate import described
from . import twins
from .contest import Course, weights

PROMPTS = HELD_OUT << 1  # seed of the calibrations' prompts and noise, out of reach of the held-out ones
TRAJECTORIES = 8
# Those that the universal calibration is of: with prompts and with class labels, with CFG and without.
TEACHERS = {**DEFAULTS, "dit-skip": twins.SETTING, "dit": replace(twins.SETTING, cfg=1.0)}


def classroom(family: str, setting: Setting, prompts: int) -> Course:
    """A demo model and `prompts` of its own: a DiT's class labels are all known, so its noise alone is new."""
    if family in twins.TWINS:
        return twins.make(family, prompts, prompts)
    rng = Random(PROMPTS)
    scenes = tuple(draw_scene(rng, family == "wan") for _ in range(prompts))
    return Course(family, load_model(weights(family), setting.shift), scenes, prompts)


@cache
def recorded(family: str, setting: Setting, trajectories: int = TRAJECTORIES) -> Statistics:
    """A demo model's uncached samplings of `trajectories` prompts that nothing reports on."""
    return _teach(classroom(family, setting, trajectories), setting).statistics(LEVELS, 0.0)


@cache
def calibration(family: str, setting: Setting, trajectories: int = TRAJECTORIES, speeds: tuple[float, ...] = ()) -> Calibration:
    """A demo model's calibration with its masks searched, rehearsed for `speeds` on the same prompts."""
    room = classroom(family, setting, trajectories)
    teacher = _teach(room, setting)
    start, velocities = teacher.start, teacher.velocities
    assert start is not None, "something was sampled"

    def perform(plan: Plan) -> Rehearsal:
        student = Trajectory()
        room.sampled(p.rehearse(plan, student), setting, PROMPTS, lambda prompts: None)
        return Rehearsal.of(plan, start, velocities, student.velocities)

    about = described(room.model, setting.cfg, setting.sampler, start.shape)
    found = calibrated(f"demo-{family}", teacher.statistics(LEVELS, 0.0), about)
    return rehearsed(found, speeds if setting.sampler == "euler" else (), perform)  # plans are fitted to Euler's steps


@cache
def universal(steps: int, without: str = "", trajectories: int = TRAJECTORIES) -> Calibration:
    """The universal calibration, or what it would be if the model `without` had never been seen: no bands, the first one's schedule."""
    seen = {name: replace(one, steps=steps) for name, one in TEACHERS.items() if name != without}
    parts = [recorded(name, one, trajectories).whole() for name, one in seen.items()]
    schedule = Schedule((*parts[0].sigmas, parts[0].end))
    total = reduce(Statistics.and_, [part.at(schedule) for part in parts])
    return calibrated("universal", total, {"models": [f"demo-{name}" for name in seen]})


def _teach(room: Course, setting: Setting) -> Trajectory:
    """One uncached sampling of all prompts."""
    teacher = Trajectory()
    room.sampled(p.collect(teacher), setting, PROMPTS, lambda prompts: None)
    return teacher
