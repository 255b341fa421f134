"""`./encore bench ablations`: TRACE with one thing left out or changed at a time, all of them on the mask of the whole."""

from collections.abc import Iterator
from dataclasses import replace

from ..cache_core import Schedule
from ..cache_core import published as p
from ..cache_core.masks import budget
from ..cache_core.trace import Calibration, Plan, Statistics, Terms, fit, plan
from ..cache_core.trace.bands import TIMED
from ..cache_core.trace.fit import Manner
from ..demo.agreement import Setting
from .contest import Course, Entrant
from .frontier import COLUMNS
from .methods import reference
from .progress import Bar
from .rows import Row, make_table
from .teachers import ROLLED, calibration, recorded

__all__ = ["COLUMNS", "run"]
SPEEDS = (2.0, 4.0)
DEPTHS = (2, 3, 4)  # anchors, besides the usual number
SIZES = (1, 4, 16)  # trajectories of a calibration, besides the usual number
TERMS = {
    "target: the teacher's velocity": Terms(returns=False),
    "without the latent": Terms(state=False),
    "without corrections": Terms(corrects=False),
    "target, latent and corrections": Terms(False, False, False),
}


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """Uncached, and at each speed the whole method and every variation of it. Seconds are not the point: `rounds` may be 1."""
    own, alike = (calibration(course.family, setting, ROLLED[course.family], SPEEDS, mixes) for mixes in (True, False))
    changed = {words: recorded(course.family, other) for words, other in shifted(setting).items()}
    changed |= {f"{count} trajectories": recorded(course.family, setting, count) for count in SIZES}
    if course.family == "wan":
        changed |= {"bands along time too": recorded(course.family, setting, ROLLED["wan"], TIMED)}
    entrants = [
        Entrant("trace", setting, f"{speed:g}x, {words}", p.follow(made))
        for speed in SPEEDS
        for words, made in variations(own, alike, changed, setting.steps, speed)
    ]
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [uncached, *(course.judge(entrant, frames, bar) for entrant in entrants)]
    bar.expect(course, [result.entrant.setting for result in results], rounds)
    course.race(results, rounds, bar)
    table = make_table(course, uncached)
    return [table.row(result, {}) for result in results]


def variations(
    own: Calibration, alike: Calibration, changed: dict[str, Statistics], steps: int, speed: float
) -> Iterator[tuple[str, Plan]]:
    """Words and plan of the whole method, then of each variation on its mask; that of `alike`, whose channels do not mix, may differ."""
    schedule = Schedule((*own.statistics.sigmas, own.statistics.end))
    whole = plan(own, schedule, budget(steps, speed))
    mask = whole.computed
    yield "all of it", whole
    yield "channels do not mix", plan(alike, schedule, budget(steps, speed))
    yield "without rehearsals", fit(own.statistics, mask)
    yield "without bands", fit(own.statistics.whole(), mask)
    for depth in DEPTHS:
        yield f"{depth} velocities kept", fit(own.statistics, mask, Manner(depth))
    for words, terms in TERMS.items():
        yield words, fit(own.statistics, mask, Manner(terms=terms))
    yield "order 1", fit(own.statistics, mask, Manner(fitted=False))
    for words, other in changed.items():
        yield words, fit(other.at(schedule), mask)


def shifted(setting: Setting) -> dict[str, Setting]:
    """What a calibration was made for where it is used for something else, each without rehearsals."""
    steps = {f"calibrated at {count} steps": replace(setting, steps=count) for count in (20, 28) if count != setting.steps}
    if setting.cfg == 1.0:
        other = {f"calibrated at guidance {value:g}": replace(setting, guidance=value) for value in (1.5, 4.0)}
    else:
        other = {f"calibrated at CFG {value:g}": replace(setting, cfg=value) for value in (2.0, 5.0)}
    shifts = {f"calibrated with shift {value:g}": replace(setting, shift=value) for value in (2.0, 5.0)}
    return steps | other | shifts | {f"calibrated at {side} x {side} pixels": replace(setting, side=side) for side in (48, 96)}
