"""`./encore bench frontier`: quality against cost, TRACE next to its strongest rivals at equal computed steps.

TRACE is calibrated here, on prompts of its own, before the held-out ones are sampled.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, reduce
from random import Random

from ..cache_core import Recipe, Schedule
from ..cache_core import published as p
from ..cache_core.masks import budget
from ..cache_core.policies import Mask
from ..cache_core.predictors import Hold
from ..cache_core.trace import Calibration, Plan, Rehearsal, Statistics, Trajectory, calibrated, cost, rehearsed, search, universal
from ..cache_core.trace.bands import LEVELS
from ..cache_core.trace.collect import TRIES
from ..cache_core.trace.search import even
from ..demo.agreement import DEFAULTS, HELD_OUT, Setting, load_model, sample
from ..demo.world import draw_scene
from ..nodes.adapters.calibrate import described
from ..nodes.adapters.host import attach
from .contest import Course, Entrant, weights
from .methods import fewer_steps, reference
from .output import Columns
from .progress import Bar
from .rows import Row, make_table

SPEEDS = (1.5, 2.0, 3.0, 4.0, 5.0)
PROMPTS = HELD_OUT << 1  # seed of the calibration's prompts and noise, out of reach of the held-out ones
TRAJECTORIES = 8


@cache
def calibration(family: str, setting: Setting, trajectories: int = TRAJECTORIES, speeds: tuple[float, ...] = ()) -> Calibration:
    """A demo model's calibration from `trajectories` prompts that nothing reports on, rehearsed for `speeds`."""
    rng, teacher = Random(PROMPTS), Trajectory()
    scenes = [draw_scene(rng, family == "wan") for _ in range(trajectories)]
    model = load_model(weights(family), setting.shift)

    def perform(plan: Plan) -> Rehearsal:
        student = Trajectory()
        sample(attach(model, p.rehearse(plan, student)), family, scenes, setting, PROMPTS, lambda: None)
        assert teacher.start is not None, "the teacher came first"
        return Rehearsal.of(plan, teacher.start, teacher.velocities, student.velocities)

    sample(attach(model, p.collect(teacher)), family, scenes, setting, PROMPTS, lambda: None)
    assert teacher.start is not None, "something was sampled"
    about = described(model, setting.cfg, setting.sampler, teacher.start.shape)
    found = calibrated(f"demo-{family}", teacher.statistics(LEVELS, 0.0), about)
    return rehearsed(found, speeds if setting.sampler == "euler" else (), perform)  # plans are fitted to Euler's steps


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """Uncached, and at each speed: reuse, order 1 on a published and on a searched mask, TRACE of both kinds, fewer steps."""
    own = calibration(course.family, setting, speeds=SPEEDS)
    other = left_out(course.family, setting.steps)
    entrants = [entrant for speed in SPEEDS for entrant in entries(own, other, setting, course.family, speed)]
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [course.judge(entrant, frames, bar) for entrant in entrants]
    plain = fewer_steps(course, setting, sorted({budget(setting.steps, speed) for speed in SPEEDS}), frames, bar)
    everyone = [uncached, *results, *(result for pair in plain.values() for result in pair.values())]
    bar.expect(course, [result.entrant.setting for result in everyone], rounds)
    course.race(everyone, rounds, bar)
    table = make_table(course, uncached)
    return [table.row(result, {}) for result in everyone]


@cache
def left_out(family: str, steps: int) -> Calibration:
    """What a universal calibration of all other demo models would be: none of it comes from `family`."""
    return joined([calibration(other, replace(DEFAULTS[other], steps=steps)) for other in DEFAULTS if other != family])


def joined(made: Sequence[Calibration]) -> Calibration:
    """All of them as one, without bands, on the schedule of the first."""
    parts = [one.statistics.whole() for one in made]
    schedule = Schedule((*parts[0].sigmas, parts[0].end))
    total = reduce(Statistics.and_, [part.at(schedule) for part in parts])
    return calibrated("universal", total, {"models": [one.name for one in made]})


def entries(own: Calibration, other: Calibration, setting: Setting, family: str, speed: float) -> list[Entrant]:
    """The methods at one speed: all compute as many steps."""
    schedule = Schedule((*own.statistics.sigmas, own.statistics.end))
    count = budget(schedule.total, speed)
    plain = own.statistics.whole()
    searched = frozenset(search(cost(plain, fitted=False), schedule.total, count, tries=TRIES))
    made: dict[str, Recipe] = {
        "reuse": Recipe(Mask(searched, schedule.total), Hold(), name="reuse"),
        "order_1_even_mask": p.masked(frozenset(even(schedule.total, count)), schedule.total),
        "order_1_published_mask": p.encore(speed, family),
        "order_1_searched_mask": p.masked(searched, schedule.total),
        "trace_universal": p.trace(speed, universal()),
        "trace_left_out": p.trace(speed, other),
        "trace": p.trace(speed, own),
    }
    return [Entrant(name, setting, f"{speed:g}x", recipe) for name, recipe in made.items()]


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("setting", lambda row: row["setting"][:24]),
    ("computed", lambda row: f"{row['computed']:g} of {row['steps']}"),
    ("MACs", lambda row: f"{row['macs_reduction']:.2f}x fewer"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}x"),
    ("PSNR dB", lambda row: f"{row['psnr_db']:.1f}"),
    ("95 %", lambda row: "{:.1f} to {:.1f}".format(*row["psnr_db_ci"])),
    ("SSIM", lambda row: f"{row['ssim']:.4f}"),
    ("agreement", lambda row: f"{100 * row['agreement']:.1f} %"),
)
