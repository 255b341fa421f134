"""The demo models as TRACE's teachers: calibrations from prompts and noise that no benchmark reports on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, reduce
from random import Random

from ..cache_core import Recipe, Schedule
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
def calibration(family: str, setting: Setting, trajectories: int = TRAJECTORIES, speeds: tuple[float, ...] = ()) -> Calibration:
    """A demo model's calibration from `trajectories` prompts that nothing reports on, rehearsed for `speeds`."""
    room, teacher = classroom(family, setting, trajectories), Trajectory()

    def sample(recipe: Recipe) -> None:
        room.sampled(recipe, setting, PROMPTS, lambda prompts: None)

    def perform(plan: Plan) -> Rehearsal:
        student = Trajectory()
        sample(p.rehearse(plan, student))
        assert teacher.start is not None, "the teacher came first"
        return Rehearsal.of(plan, teacher.start, teacher.velocities, student.velocities)

    sample(p.collect(teacher))
    assert teacher.start is not None, "something was sampled"
    about = described(room.model, setting.cfg, setting.sampler, teacher.start.shape)
    found = calibrated(f"demo-{family}", teacher.statistics(LEVELS, 0.0), about)
    return rehearsed(found, speeds if setting.sampler == "euler" else (), perform)  # plans are fitted to Euler's steps


@cache
def universal(steps: int, without: str = "", trajectories: int = TRAJECTORIES) -> Calibration:
    """The universal calibration, or what it would be if the model `without` had never been seen."""
    return joined([calibration(name, replace(one, steps=steps), trajectories) for name, one in TEACHERS.items() if name != without])


def joined(made: Sequence[Calibration]) -> Calibration:
    """All of them as one, without bands, on the schedule of the first."""
    parts = [one.statistics.whole() for one in made]
    schedule = Schedule((*parts[0].sigmas, parts[0].end))
    total = reduce(Statistics.and_, [part.at(schedule) for part in parts])
    return calibrated("universal", total, {"models": [one.name for one in made]})
