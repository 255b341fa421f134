"""What the node Encore does when a sampling begins: takes the calibration that fits the model, or learns one, or goes without."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..cache_core import Recipe, Schedule, Site
from ..cache_core import published as recipes
from ..cache_core.masks import budget
from ..cache_core.trace import Calibration, ForQuality, ForSpeed, universal
from . import calibrations
from .adapters.calibrate import fingerprint
from .adapters.choice import Choice, Situation
from .adapters.families import family_of
from .learning import lesson, sliced

NOISY = ("ancestral", "sde", "lcm", "ddpm", "sa_solver")  # parts of the names of solvers that add noise at every step
NOISIEST = 1.001  # noise level that rectified flow does not exceed
NEAR = 1.5  # a calibration serves CFG scales up to so many times its own, or smaller
SPARSE = 6  # computed steps up to which forecasts may be worse than fewer steps (docs/trace.md, at 28 steps)


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
        plain = Choice(recipes.trace(1.0, universal(), self.site)) if self.error <= 0.0 and self.speed <= 1.0 else None
        if plain is not None and not self.learn:
            return plain
        reason = unfit(situation)
        if reason is not None:
            return plain or Choice(recipes.encore(self.speed, family_of(situation.model), self.site), (reason,))
        known, note = own(situation)
        taught, why = lesson(situation, lambda: own(situation)[0] is not None) if known is None and self.learn else (None, "")
        if taught is not None:
            return taught
        if plain is not None:
            return replace(plain, notes=(why,) if why else ())
        notes = (self._advised(note, situation), why, disturbed(situation), self._sparse(situation.schedule))
        return Choice(self._recipe(known or universal()), tuple(text for text in notes if text))

    def _advised(self, note: str, situation: Situation) -> str:
        """A note on a calibration that does not serve, and what to do about it."""
        return note and note + ("" if self.learn or sliced(situation) else " Calibrate for these settings, or switch learn on.")

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
    """The calibration of this very model and schedule that is nearest in CFG and size, or why those of the model do not serve.

    On another number of steps or another shift a calibration does worse than the universal one (docs/trace.md).
    """
    mine = fingerprint(situation.model)
    known = [found for found in calibrations.readable() if all(found.about.get(key) == value for key, value in mine.items())]
    if not known:
        return None, ""
    fitting = [found for found in known if found.made_for(situation.schedule)]
    best = min(fitting or known, key=lambda found: _distance(found.about, situation))
    if not fitting:
        return None, f"Calibration {best.name!r} was made for {_otherwise(best, situation)}; universal serves."
    far = _distance(best.about, situation)[0]
    if far > math.log(NEAR) + 1e-9:
        return None, f"Calibration {best.name!r} was made at CFG {best.about.get('cfg')}, too far from {situation.cfg:g}; universal serves."
    return best, ""


def _distance(made: Mapping[str, Any], situation: Situation) -> tuple[float, bool]:
    cfg = max(float(made.get("cfg", 1.0)), 1e-3)
    return abs(math.log(max(situation.cfg, 1e-3) / cfg)), list(made.get("size", ())) != list(situation.shape[2:])


def _otherwise(made: Calibration, situation: Situation) -> str:
    """What a calibration of another schedule was made for, in the words of a sampler's widgets."""
    steps, total = len(made.statistics.sigmas), situation.schedule.total
    if sliced(situation):
        return "whole samplings, and this is a part of one"
    return f"{steps} steps, and these are {total}" if steps != total else "another scheduler or shift"
