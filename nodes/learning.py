"""Learns a model while one works: keeps a few uncached samplings, and makes a calibration of them beside the user's work."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from torch import Tensor

from ..cache_core import Ledger, Schedule
from ..cache_core import published as recipes
from ..cache_core.masks import FEWEST
from ..cache_core.solver import EULER, Solver, Walk, euler
from ..cache_core.trace import Shelf, Statistics, Trajectory, calibrated, save
from ..cache_core.trace.bands import LEVELS
from . import calibrations
from .adapters.calibrate import described, noisiest
from .adapters.choice import Choice, Situation
from .adapters.told import digest

LESSONS = 4  # uncached samplings that a calibration is learned from
STRAY = 0.05  # share of a step by which rounding may lead away from the sampler's rule; a mask or added noise leads further

_lock = threading.Lock()  # on the shelves and on the names of what is being made of them
_studied: set[str] = set()


@dataclass(slots=True)
class Path(Trajectory):
    """A trajectory that sees whether the sampler goes by the velocities alone, by the rule of its `schedule`.

    `strayed` is the longest way between where it went and where the rule leads, as a share of the step.
    """

    schedule: Schedule = field(kw_only=True)
    strayed: float = 0.0
    _walk: Walk | None = None

    def add(self, sigma: float, x: Tensor, velocity: Tensor) -> None:
        """One evaluation at `sigma`: latent and velocity, each [B, C, (F,) H, W]."""
        here, levels = x.detach().float().cpu().clone(), self.schedule.sigmas
        if self._walk is None:
            self._walk = Walk(here, levels, self.schedule.solver or euler(levels))
        elif len(self.sigmas) < self.schedule.total:
            before = self._walk.x
            self._walk.go(self.velocities[-1])
            step = self._walk.x - before
            self.strayed = max(self.strayed, float((here - self._walk.x).norm() / step.norm().clamp_min(1e-12)))
            self._walk.x = here
        Trajectory.add(self, sigma, x, velocity)


def lesson(situation: Situation, known: Callable[[], bool]) -> tuple[Choice | None, str]:
    """An uncached sampling that is kept, or why nothing is learned from it; after the last of LESSONS a calibration is made of them.

    `known` tells whether there is a calibration for such samplings by now.
    """
    reason = unsuited(situation)
    if reason:
        return None, reason
    made = described(situation.model, situation.cfg, situation.sampler, situation.shape)
    name = name_for(situation, made)
    shelf = Shelf(calibrations.workplace(name), repr((made, situation.schedule.sigmas)))
    with _lock:
        kept = shelf.filled()
        if kept >= LESSONS:
            _begin(shelf, name, made, situation.schedule.solver)
        if name in _studied:
            return None, f"A calibration is being made of {LESSONS} samplings; until it is there the universal one serves."
    into = Path(schedule=situation.schedule)

    def finish(ledger: Ledger) -> None:
        if ledger.evaluations != situation.schedule.total or len(into.sigmas) != ledger.evaluations or into.strayed > STRAY:
            ledger.note(
                "Nothing was learned from this sampling: something besides the model moved the latent between the steps, such as a mask, "
                "added noise or another node. Switch learn off for such samplings."
            )
            return
        with _lock:
            if name in _studied or known():
                return
            kept = shelf.filled()
            shelf.put(kept, into, LEVELS, situation.schedule.sigmas[-1])
            if kept + 1 >= LESSONS:
                _begin(shelf, name, made, situation.schedule.solver)

    note = f"Learning from this sampling, {kept + 1} of {LESSONS}, which is computed in full; then Encore knows this model."
    return Choice(recipes.collect(into), (note,), finish), ""


def unsuited(situation: Situation) -> str:
    """Why nothing can be learned from the sampling that begins, or nothing."""
    if sliced(situation):
        return (
            "Nothing is learned from a part of a sampling, with denoise below 1, or a first or last step: a calibration is of whole ones."
        )
    if situation.schedule.total <= FEWEST:
        return f"Nothing is learned from {situation.schedule.total} steps: they are too few to forecast any."
    if situation.schedule.solver is None and situation.sampler != EULER:  # whose rule a schedule does not tell
        return (
            f"Nothing is learned from the sampler {situation.sampler}: it adds noise, evaluates more than once a step, or is not "
            f"ComfyUI's own. What is learned with {EULER} serves {situation.sampler} too."
        )
    return ""


def sliced(situation: Situation) -> bool:
    """Whether the sampling leaves out noise levels at either end: by denoise below 1, or a first or last step."""
    sigmas = situation.schedule.sigmas
    return sigmas[0] < noisiest(situation.model) * (1.0 - 1e-4) or sigmas[-1] > 0.0


def name_for(situation: Situation, made: Mapping[str, Any]) -> str:
    """The name of what is learned: one for each model, LoRAs on it, CFG and schedule."""
    lora = f"-lora{made['patches'][:8]}" if getattr(situation.model, "patches", None) else ""
    levels = digest(repr([round(sigma, 4) for sigma in situation.schedule.sigmas]).encode())
    return f"learned-{made['weights']}{lora}-cfg{situation.cfg:g}-{situation.schedule.total}steps-{levels[:4]}"


def _begin(shelf: Shelf, name: str, made: Mapping[str, Any], solver: Solver | None) -> None:
    """Begin to study, unless that is going on; under the lock."""
    if name not in _studied:
        _studied.add(name)
        threading.Thread(target=study, args=(shelf, name, made, solver), name="Encore learns").start()


def study(shelf: Shelf, name: str, made: Mapping[str, Any], solver: Solver | None = None) -> None:
    """Make the calibration of what lies on the shelf, if it is enough, and clear it."""
    try:
        kept = [found.statistics for found in (shelf.get(number, LEVELS) for number in range(LESSONS)) if found is not None]
        if len(kept) == LESSONS:
            total = reduce(Statistics.and_, kept)
            save(calibrated(name, total, made, solver=solver), calibrations.place_for(name))
            logging.info("[Encore] learned %s from %d samplings", name, total.trajectories)
    finally:
        with _lock:
            shelf.clear()
            _studied.discard(name)
