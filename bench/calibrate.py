"""`./encore calibrate`: calibrations from prompts that no benchmark reports on: of a demo model, or of all, which ships as universal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..cache_core.trace import save
from . import teachers


def calibrate(name: str, prompts: int, steps: int, speeds: Sequence[float], file: Path) -> int:
    """Sample `prompts` together, uncached, and write what TRACE needs of them to `file`; 0. One model's `speeds` are rehearsed."""
    if name == "universal":
        found = teachers.universal(steps, trajectories=prompts)
    else:
        found = teachers.calibration(name, replace(teachers.TEACHERS[name], steps=steps), prompts, tuple(speeds))
    save(found, file)
    counts = f"{found.statistics.trajectories} trajectories of {steps} steps, {len(found.masks)} masks"
    print(f"{file.name}: {counts}, {len(found.plans)} rehearsed plans")
    return 0
