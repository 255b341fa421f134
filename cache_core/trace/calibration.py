"""What was learned of a model: statistics of its trajectories and the best masks searched on them, kept in one small file."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import CacheError
from ..masks import rescale
from ..types import Schedule
from .fit import Plan, fit
from .search import even
from .statistics import Statistics

FORMAT = 1
UNIVERSAL = Path(__file__).parent / "universal.safetensors"


@dataclass(frozen=True, slots=True)
class Levels:
    """A searched mask as the noise levels that it computes, noisiest first, of a schedule of `total` steps."""

    sigmas: tuple[float, ...]
    total: int

    @property
    def computed(self) -> tuple[int, ...]:
        return tuple(range(len(self.sigmas)))

    def sigma(self, step: int) -> float:
        """Noise level of the mask's computed step number `step`."""
        return self.sigmas[step]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Statistics, masks from the sparsest to the densest, and `about`: model, sampler, cfg and size that they come from."""

    name: str
    statistics: Statistics
    masks: tuple[Levels, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def computed(self, schedule: Schedule, count: int) -> frozenset[int]:
        """`count` steps of `schedule` to compute: the searched mask of the nearest share, placed alike along sigma."""
        if count >= schedule.total or not self.masks:
            return frozenset(even(schedule.total, min(count, schedule.total)))
        share = count / schedule.total
        nearest = min(self.masks, key=lambda mask: abs(math.log(len(mask.sigmas) / mask.total / share)))
        return rescale(nearest, schedule, count)


@lru_cache(maxsize=64)
def plan(calibration: Calibration, schedule: Schedule, count: int) -> Plan:
    """The mask of `count` computed steps for `schedule` and the weights fitted to it: some milliseconds, then remembered."""
    return fit(calibration.statistics.at(schedule), calibration.computed(schedule, count))


def save(calibration: Calibration, path: Path) -> None:
    """Write the file whole or not at all."""
    statistics = calibration.statistics
    header = {
        "format": FORMAT,
        "name": calibration.name,
        "sigmas": statistics.sigmas,
        "end": statistics.end,
        "levels": statistics.levels,
        "trajectories": statistics.trajectories,
        "masks": [{"sigmas": mask.sigmas, "total": mask.total} for mask in calibration.masks],
        "about": dict(calibration.about),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({"gram": torch.from_numpy(statistics.gram.copy())}, part, {"encore": json.dumps(header)})
    os.replace(part, path)


def load(path: Path) -> Calibration:
    """Read a file that `save` wrote. Raises CacheError for any other, a damaged one and one of a later format."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("encore", "null"))
            gram = file.get_tensor("gram") if header is not None else None
    except FileNotFoundError as error:
        raise CacheError(f"There is no calibration at {path.name}. Make one with Encore Calibrate, or choose another.") from error
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CacheError(f"{path.name} is damaged and cannot be read ({error}). Delete it and calibrate again.") from error
    if header is None or gram is None:
        raise CacheError(f"{path.name} is a safetensors file, but no calibration of Encore. Choose a file that Encore Calibrate wrote.")
    if header.get("format") != FORMAT:
        raise CacheError(f"{path.name} has format {header.get('format')}, and this Encore reads {FORMAT}. Update Encore or calibrate anew.")
    statistics = Statistics(
        tuple(header["sigmas"]), gram.double().numpy(), tuple(header["levels"]), float(header["end"]), int(header["trajectories"])
    )
    masks = tuple(Levels(tuple(mask["sigmas"]), int(mask["total"])) for mask in header["masks"])
    return Calibration(header["name"], statistics, masks, header["about"])


@lru_cache(maxsize=1)
def universal() -> Calibration:
    """The calibration that ships, for models that have none of their own."""
    return load(UNIVERSAL)
