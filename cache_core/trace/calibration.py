"""What was learned of a model: statistics of its trajectories and the best masks searched on them, kept in one small file."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import CacheError
from ..masks import rescale
from ..solver import EULER
from ..types import Schedule
from .bands import listed
from .fit import Plan, fit
from .search import even
from .statistics import Array, Statistics

FORMAT, READABLE = 3, (2, 3)  # of the file: in the second, channels do not mix
UNIVERSAL = Path(__file__).parent / "universal.safetensors"
ANEW = "Delete it and calibrate again."


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


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A plan that was rehearsed on the schedule of `sigmas` with the solver of that name, and is for these alone."""

    sigmas: tuple[float, ...]
    plan: Plan
    solver: str = EULER

    def fits(self, schedule: Schedule, count: int) -> bool:
        """Whether it computes `count` steps of this very schedule."""
        solver = schedule.solver.name if schedule.solver else EULER
        return len(self.plan.computed) == count and self.solver == solver and alike(self.sigmas, schedule)


def alike(sigmas: Sequence[float], schedule: Schedule) -> bool:
    """Whether `sigmas`, with the one at the end, are those of `schedule`, but for a ten thousandth."""
    same = len(sigmas) == len(schedule.sigmas)
    return same and all(abs(a - b) <= 1e-4 * max(a, 1e-3) for a, b in zip(sigmas, schedule.sigmas, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Statistics, masks from the sparsest to the densest, plans that were rehearsed, and `about`: where all that comes from."""

    name: str
    statistics: Statistics
    masks: tuple[Levels, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    plans: tuple[Rehearsed, ...] = ()

    def unrehearsed(self) -> "Calibration":
        """The same without plans, for another model than its own: where channels mix, they mean something else there."""
        return replace(self, plans=())

    def made_for(self, schedule: Schedule) -> bool:
        """Whether its trajectories were sampled on this very schedule."""
        return alike((*self.statistics.sigmas, self.statistics.end), schedule)

    def computed(self, schedule: Schedule, count: int) -> frozenset[int]:
        """`count` steps of `schedule` to compute: the searched mask of the nearest share, placed alike along sigma."""
        if count >= schedule.total or not self.masks:
            return frozenset(even(schedule.total, min(count, schedule.total)))
        share = count / schedule.total
        nearest = min(self.masks, key=lambda mask: abs(math.log(len(mask.sigmas) / mask.total / share)))
        return rescale(nearest, schedule, count)


@lru_cache(maxsize=64)
def plan(calibration: Calibration, schedule: Schedule, count: int) -> Plan:
    """A rehearsed plan of `count` computed steps of `schedule`, or else one fitted now: some milliseconds, then remembered."""
    rehearsed = next((known.plan for known in calibration.plans if known.fits(schedule, count)), None)
    return rehearsed or fit(calibration.statistics.at(schedule), calibration.computed(schedule, count), solver=schedule.solver)


@lru_cache(maxsize=256)
def refitted(calibration: Calibration, schedule: Schedule, computed: frozenset[int]) -> Plan:
    """A plan for any mask: some milliseconds, then remembered."""
    return fit(calibration.statistics.at(schedule), computed, solver=schedule.solver)


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
        "plans": [{"sigmas": known.sigmas, "solver": known.solver, **_plain(known.plan)} for known in calibration.plans],
        "about": dict(calibration.about),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    tensors = {"gram": torch.from_numpy(statistics.gram.copy())}
    for n, known in enumerate(calibration.plans):
        tensors |= {f"mixing.{n}.{step}": torch.from_numpy(mixed).float().contiguous() for step, mixed in known.plan.mixing.items()}
    save_file(tensors, part, {"encore": json.dumps(header)})
    os.replace(part, path)


def load(path: Path) -> Calibration:
    """Read a file that `save` wrote. Raises CacheError for any other, a damaged one and one of a later format."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("encore", "null"))
            gram = file.get_tensor("gram").double().numpy() if header is not None else None
            mixing = {key: file.get_tensor(key).double().numpy() for key in file.keys() if key.startswith("mixing.")}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CacheError(f"There is no calibration at {path.name}. Make one with Encore Calibrate, or choose another.") from error
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CacheError(f"{path.name} is damaged and cannot be read ({error}). {ANEW}") from error
    if header is None or gram is None:
        raise CacheError(f"{path.name} is a safetensors file, but no calibration of Encore. Choose a file that Encore Calibrate wrote.")
    try:
        return _read(header, gram, mixing, path.name)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"{path.name} is damaged: its header lacks something, or has it wrong ({error!r}). {ANEW}") from error


def _read(header: Mapping[str, Any], gram: Array, mixing: Mapping[str, Array], name: str) -> Calibration:
    """What the file `name` holds. Raises CacheError for another format, and what Python raises where a field is missing or wrong."""
    if header.get("format") not in READABLE:
        raise CacheError(
            f"{name} has format {header.get('format')}, and this Encore reads up to {FORMAT}. Update Encore or calibrate anew."
        )
    statistics = Statistics(_floats(header["sigmas"]), gram, listed(header["levels"]), float(header["end"]), int(header["trajectories"]))
    masks = tuple(Levels(_floats(mask["sigmas"]), int(mask["total"])) for mask in header["masks"])
    plans = tuple(
        Rehearsed(_floats(known["sigmas"]), _plan(known, f"mixing.{n}.", mixing), str(known.get("solver", EULER)))
        for n, known in enumerate(header["plans"])
    )
    return Calibration(str(header["name"]), statistics, masks, _about(header["about"]), plans)


def _about(found: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(found)
    if not isinstance(told.get("cfg", 1.0), int | float) or not isinstance(told.get("size", []), list):
        raise TypeError(f"made at CFG {told.get('cfg')} and size {told.get('size')}")
    return told


def _floats(found: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, found))


def _plain(made: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    steps = {str(step): {"anchors": made.anchors[step], "weights": rows} for step, rows in made.weights.items()}
    known = {"error": made.error, "exams": _keyed(made.exams), "alarm": made.alarm, "held_out": made.held_out}
    return {"computed": sorted(made.computed), "steps": steps, "levels": made.levels} | known


def _keyed(by_step: Mapping[int, float]) -> dict[str, float]:
    return {str(step): value for step, value in by_step.items()}


def _plan(found: Mapping[str, Any], prefix: str, mixing: Mapping[str, Array]) -> Plan:
    """The plan that `_plain` wrote, with the `mixing` whose names start with `prefix`."""
    steps = {int(step): entry for step, entry in found["steps"].items()}
    return Plan(
        frozenset(found["computed"]),
        MappingProxyType({step: tuple(map(_floats, entry["weights"])) for step, entry in steps.items()}),
        MappingProxyType({step: tuple(entry["anchors"]) for step, entry in steps.items()}),
        listed(found["levels"]),
        float(found["error"]),
        MappingProxyType({int(step): value for step, value in found["exams"].items()}),
        MappingProxyType({int(key.removeprefix(prefix)): mixed for key, mixed in mixing.items() if key.startswith(prefix)}),
        alarm=float(found.get("alarm", 0.0)),  # older files have neither
        held_out=None if found.get("held_out") is None else float(found["held_out"]),
    )


@lru_cache(maxsize=1)
def universal() -> Calibration:
    """The calibration that ships, for models that have none of their own."""
    return load(UNIVERSAL)
