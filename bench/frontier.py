"""`./encore bench frontier`: quality against cost, TRACE next to its strongest rivals at equal computed steps.

TRACE goes by the calibration that ships, if it is of this setting, or is calibrated here: both on prompts of its own, none held out.
"""

from collections.abc import Sequence

from ..cache_core import CacheError, Recipe, Schedule
from ..cache_core import published as p
from ..cache_core.masks import budget
from ..cache_core.policies import Mask
from ..cache_core.predictors import Hold
from ..cache_core.trace import Calibration, cost, plan, search, universal
from ..cache_core.trace.collect import TRIES
from ..cache_core.trace.search import even
from ..demo.agreement import Setting
from . import teachers
from .contest import Course, Entrant
from .methods import RIVALS, fewer_steps, reference
from .output import Columns
from .progress import Bar
from .rows import Row, make_table

SPEEDS = (1.5, 2.0, 3.0, 4.0, 5.0)
MASKS = ("even", "published", "searched", "left_out")
NAMES = ("reuse", *(f"order_1_{mask}_mask" for mask in MASKS), "trace_universal", "trace_left_out", "trace_left_out_unguarded", "trace")


def run(course: Course, setting: Setting, rounds: int, bar: Bar, only: Sequence[str] = ()) -> list[Row]:
    """Uncached, and at each speed: reuse, order 1 on a published and on a searched mask, TRACE of both kinds, fewer steps.

    With `only`, uncached and those of them. Raises CacheError for a name that none of them has.
    """
    if unknown := sorted(set(only) - {*NAMES, *RIVALS}):
        raise CacheError(f"The frontier has no {', '.join(unknown)}. Choose from {', '.join((*NAMES, *RIVALS))}.")
    family = course.family
    own = teachers.shipped(family, setting) or teachers.calibration(family, setting, teachers.ROLLED[family], SPEEDS)
    other = teachers.universal(setting.steps, without=family)
    entrants = [entrant for speed in SPEEDS for entrant in entries(own, other, setting, family, speed)]
    entrants = [entrant for entrant in entrants if not only or entrant.method in only]
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [course.judge(entrant, frames, bar) for entrant in entrants]
    costs = sorted({budget(setting.steps, speed) for speed in SPEEDS})
    plain = fewer_steps(course, setting, costs, frames, bar, [name for name in RIVALS if not only or name in only])
    everyone = [uncached, *results, *(result for pair in plain.values() for result in pair.values())]
    bar.expect(course, [result.entrant.setting for result in everyone], rounds)
    course.race(everyone, rounds, bar)
    table = make_table(course, uncached)
    return [table.row(result, {}) for result in everyone]


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
        "order_1_left_out_mask": p.masked(plan(other, schedule, count).computed, schedule.total),
        "trace_universal": p.trace(speed, universal()),
        "trace_left_out": p.trace(speed, other),
        "trace_left_out_unguarded": p.trace(speed, other, guarded=False),
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
