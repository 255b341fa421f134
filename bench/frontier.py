"""`./encore bench frontier`: quality against cost, TRACE next to its strongest rivals at equal computed steps.

TRACE goes by the calibration that ships, if it is of this setting, or is calibrated here: both on prompts of its own, none held out.
Published methods are there too, each at its recommended setting and so at a cost of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..cache_core import CacheError, Recipe, Schedule
from ..cache_core import published as p
from ..cache_core.masks import budget
from ..cache_core.policies import Mask
from ..cache_core.predictors import Hold
from ..cache_core.trace import Calibration, Statistics, Terms, cost, fit, plan, search, universal
from ..cache_core.trace.collect import TRIES
from ..cache_core.trace.fit import Guessed, Manner, follow
from ..cache_core.trace.search import even
from ..cache_core.trace.statistics import Array
from ..demo.agreement import Setting
from ..nodes.adapters.solvers import named, shown
from . import methods, teachers
from .contest import Course, Entrant
from .methods import METHODS, RIVALS, fewer_steps, reference
from .output import Columns
from .progress import Bar
from .rows import Row, make_table

SPEEDS = (1.5, 2.0, 3.0, 4.0, 5.0)
MASKS = ("even", "published", "searched", "left_out")
REUSES = ("reuse", "reuse_own_mask")
FITTED = ("local_least_squares", "trace_universal", "trace_left_out", "trace_left_out_unguarded", "trace")
NAMES = (*REUSES, *(f"order_1_{mask}_mask" for mask in MASKS), *FITTED)
PUBLISHED = tuple(method.make.__name__ for method in METHODS if method.make not in (p.encore, p.trace))
IMITATES = Terms(returns=False, state=False, corrects=False)  # L2P, arXiv:2604.26365: the teacher's own velocity from the anchors alone


def run(course: Course, setting: Setting, rounds: int, bar: Bar, only: Sequence[str] = ()) -> list[Row]:
    """Uncached, and at each speed: reuse, order 1 on four masks, local least squares, TRACE of all kinds, fewer steps; published ones.

    With `only`, uncached and those of them. Raises CacheError for a name that none of them has.
    """
    if unknown := sorted(set(only) - {*NAMES, *PUBLISHED, *RIVALS}):
        raise CacheError(f"The frontier has no {', '.join(unknown)}. Choose from {', '.join((*NAMES, *PUBLISHED, *RIVALS))}.")
    family = course.family
    own = teachers.shipped(family, setting) or teachers.calibration(family, setting, teachers.ROLLED[family], SPEEDS)
    other = teachers.universal(setting.steps, without=family)
    entrants = [entrant for speed in SPEEDS for entrant in entries(own, other, setting, family, speed)]
    entrants = [entrant for entrant in entrants if not only or entrant.method in only]
    published = [name for name in PUBLISHED if not only or name in only]
    entrants += methods.entries(course, setting, published)[0] if published else []
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
    levels = (*own.statistics.sigmas, own.statistics.end)
    solver = shown(named(setting.sampler, levels), levels)
    schedule = Schedule(levels, solver)
    count = budget(schedule.total, speed)
    plain = own.statistics.whole()
    searched, held = (frozenset(search(costs, schedule.total, count, tries=TRIES)) for costs in (cost(plain, fitted=False), holding(plain)))
    made: dict[str, Recipe] = {
        "reuse": Recipe(Mask(searched, schedule.total), Hold(), name="reuse"),
        "reuse_own_mask": Recipe(Mask(held, schedule.total), Hold(), name="reuse"),
        "order_1_even_mask": p.masked(frozenset(even(schedule.total, count)), schedule.total),
        "order_1_published_mask": p.encore(speed, family),
        "order_1_searched_mask": p.masked(searched, schedule.total),
        "order_1_left_out_mask": p.masked(plan(other, schedule, count).computed, schedule.total),
        "local_least_squares": p.follow(fit(plain, searched, Manner(terms=IMITATES), solver)),
        "trace_universal": p.trace(speed, universal()),
        "trace_left_out": p.trace(speed, other),
        "trace_left_out_unguarded": p.trace(speed, other, guarded=False),
        "trace": p.trace(speed, own),
    }
    return [Entrant(name, setting, f"{speed:g}x", recipe) for name, recipe in made.items()]


def holding(statistics: Statistics) -> Callable[[list[int]], float]:
    """The expected error of a mask where the last computed velocity is reused, as `cost` has it for order 1."""

    def held(step: int, parts: Array, goal: Array, prior: Array) -> Array:
        weights = np.zeros(parts.shape[:2])
        weights[:, -2] = 1.0
        return weights

    return lambda mask: follow(Guessed(statistics, len(mask)), statistics, sorted(mask), 2, held).error


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
