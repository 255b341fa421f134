"""`./encore calibrate`: calibrations from prompts that no benchmark reports on: of a demo model, or of both, which ships as universal."""

from dataclasses import replace
from functools import reduce
from pathlib import Path

from ..cache_core import Schedule
from ..cache_core.trace import Calibration, Statistics, calibrated, save
from ..demo.agreement import DEFAULTS
from .frontier import calibration


def calibrate(name: str, prompts: int, steps: int, file: Path) -> int:
    """Sample `prompts` together, uncached, and write what TRACE needs of them to `file`; 0."""
    families = list(DEFAULTS) if name == "universal" else [name]
    made = [calibration(family, replace(DEFAULTS[family], steps=steps), prompts) for family in families]
    found = joined(made) if name == "universal" else made[0]
    save(found, file)
    print(f"{file.name}: {found.statistics.trajectories} trajectories of {steps} steps, {len(found.masks)} masks")
    return 0


def joined(made: list[Calibration]) -> Calibration:
    """All of them as one, without bands, on the schedule of the first."""
    parts = [one.statistics.whole() for one in made]
    schedule = Schedule((*parts[0].sigmas, parts[0].end))
    total = reduce(Statistics.and_, [part.at(schedule) for part in parts])
    return calibrated("universal", total, {"models": [one.name for one in made]})
