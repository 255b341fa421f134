"""`./encore calibrate`: calibrations from prompts that no benchmark reports on: of a demo model, or of both, which ships as universal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..cache_core.trace import save
from ..demo.agreement import DEFAULTS
from .frontier import calibration, joined


def calibrate(name: str, prompts: int, steps: int, speeds: Sequence[float], file: Path) -> int:
    """Sample `prompts` together, uncached, and write what TRACE needs of them to `file`; 0. One model's `speeds` are rehearsed."""
    families = list(DEFAULTS) if name == "universal" else [name]
    made = [calibration(family, replace(DEFAULTS[family], steps=steps), prompts, tuple(speeds)) for family in families]
    found = joined(made) if name == "universal" else made[0]
    save(found, file)
    counts = f"{found.statistics.trajectories} trajectories of {steps} steps, {len(found.masks)} masks"
    print(f"{file.name}: {counts}, {len(found.plans)} rehearsed plans")
    return 0
