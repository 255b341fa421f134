"""What the node Encore does when a sampling begins: takes the calibration that fits the model, or learns one, or goes without."""

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ..cache_core import Ledger, Recipe, Schedule, Site
from ..cache_core import published as recipes
from ..cache_core.masks import budget
from ..cache_core.trace import Calibration, ForQuality, ForSpeed, Shelf, Statistics, Trajectory, calibrated, save, universal
from ..cache_core.trace.bands import LEVELS
from . import calibrations
from .adapters.calibrate import described, fingerprint
from .adapters.choice import Choice, Situation
from .adapters.families import family_of

NOISY = ("ancestral", "sde", "lcm", "ddpm", "sa_solver")  # parts of the names of solvers that add noise at every step
NOISIEST = 1.001  # noise level that rectified flow does not exceed
NEAR = 1.5  # a calibration serves CFG scales up to so many times its own, or smaller
SPARSE = 6  # computed steps up to which forecasts may be worse than fewer steps (docs/trace.md, at 28 steps)
LESSONS = 4  # uncached samplings that a calibration is learned from


@dataclass(frozen=True, slots=True)
class Automatic:
    """The goal, and what may be done for it. `error` above 0 is the goal instead of `speed`."""

    speed: float = 2.0
    error: float = 0.0
    site: Site = Site.GUIDED
    guarded: bool = True
    learn: bool = False

    def __call__(self, situation: Situation) -> Choice:
        """The recipe for the sampling that begins, and what the report should say about the choice."""
        if self.error <= 0.0 and self.speed <= 1.0:
            return Choice(recipes.trace(1.0, universal(), self.site))
        reason = unfit(situation)
        if reason is not None:
            return Choice(recipes.encore(self.speed, family_of(situation.model), self.site), (reason,))
        known, note = own(situation)
        if known is None and self.learn:
            return lesson(situation)
        notes = tuple(text for text in (note, disturbed(situation), self._sparse(situation.schedule)) if text)
        return Choice(self._recipe(known or universal()), notes)

    def _sparse(self, schedule: Schedule) -> str:
        """A note if the speed leaves so few computed steps that forecasts have little to go by."""
        count = budget(schedule.total, self.speed)
        if self.error > 0.0 or not count < schedule.total or count > SPARSE:
            return ""
        return f"Only {count} of {schedule.total} steps are computed, few to forecast from: a smaller speed or fewer steps may look better."

    def _recipe(self, known: Calibration) -> Recipe:
        if self.error > 0.0:
            return recipes.planned(ForQuality(known, self.error), f"Encore to {self.error:g}", self.site, self.guarded)
        return recipes.planned(ForSpeed(known, self.speed), f"Encore {self.speed:g}x", self.site, self.guarded)


def unfit(situation: Situation) -> str | None:
    """Why TRACE cannot forecast this sampling, or None."""
    top = situation.schedule.sigmas[0]
    if top <= NOISIEST:
        return None
    return f"Noise levels start at {top:.3g}, and TRACE knows rectified flow, up to 1: forecasts are of order 1, on a published mask."


def disturbed(situation: Situation) -> str:
    """A note if the solver adds noise at every step, which no forecast knows of."""
    if not any(part in situation.sampler for part in NOISY):
        return ""
    return f"The sampler {situation.sampler} adds noise at every step, which cannot be forecast: expect less speed or another picture."


def own(situation: Situation) -> tuple[Calibration | None, str]:
    """The calibration of this very model that is nearest in CFG and size, and a note if it is not near."""
    mine = fingerprint(situation.model)
    known = [found for found in calibrations.readable() if all(found.about.get(key) == value for key, value in mine.items())]
    if not known:
        return None, ""
    best = min(known, key=lambda found: _distance(found.about, situation))
    far = _distance(best.about, situation)[0]
    if far > math.log(NEAR) + 1e-9:
        return None, f"Calibration {best.name!r} was made at CFG {best.about.get('cfg')}, too far from {situation.cfg:g}; universal serves."
    return best, ""


def _distance(made: Mapping[str, Any], situation: Situation) -> tuple[float, bool]:
    cfg = max(float(made.get("cfg", 1.0)), 1e-3)
    return abs(math.log(max(situation.cfg, 1e-3) / cfg)), list(made.get("size", ())) != list(situation.shape[2:])


def lesson(situation: Situation) -> Choice:
    """An uncached sampling that is kept; after the last one of LESSONS a calibration is made of them, beside the user's work."""
    made = described(situation.model, situation.cfg, situation.sampler, situation.shape)
    name = f"learned-{made['weights']}-cfg{situation.cfg:g}"
    shelf = Shelf(calibrations.workplace(name), repr((made, situation.schedule.sigmas)))
    kept = [found for found in (shelf.get(number, LEVELS) for number in range(LESSONS)) if found is not None]
    into = Trajectory()

    def finish(ledger: Ledger) -> None:
        if len(into.sigmas) != situation.schedule.total:
            return
        shelf.put(len(kept), into, LEVELS, situation.schedule.sigmas[-1])
        if len(kept) + 1 >= LESSONS:
            threading.Thread(target=study, args=(shelf, name, made), name="Encore learns").start()

    note = f"Learning from this sampling, {len(kept) + 1} of {LESSONS}, which is computed in full; then Encore knows this model."
    return Choice(recipes.collect(into), (note,), finish)


def study(shelf: Shelf, name: str, made: Mapping[str, Any]) -> None:
    """Make the calibration of what lies on the shelf, and clear it."""
    kept = [shelf.get(number, LEVELS) for number in range(LESSONS)]
    total = reduce(Statistics.and_, [found.statistics for found in kept if found is not None])
    save(calibrated(name, total, made), calibrations.place_for(name))
    shelf.clear()
    logging.info("[Encore] learned %s from %d samplings", name, total.trajectories)
