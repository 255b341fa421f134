"""`./encore calibrate`: a calibration of a demo model, from prompts that no benchmark reports on."""

from dataclasses import replace
from pathlib import Path

from ..cache_core.trace import save
from ..demo.agreement import DEFAULTS
from .frontier import calibration


def calibrate(family: str, prompts: int, steps: int, file: Path) -> int:
    """Sample `prompts` together, uncached, and write what TRACE needs of them to `file`; 0."""
    found = calibration(family, replace(DEFAULTS[family], steps=steps), prompts)
    save(found, file)
    print(f"{file.name}: {prompts} trajectories of {steps} steps, {len(found.masks)} masks")
    return 0
