"""TRACE, our method: trajectory-return forecasts in closed form, from inner products along uncached trajectories."""

from .calibration import Calibration, Levels, Rehearsed, load, plan, save, universal
from .collect import SPEEDS, Trajectory, calibrated, rehearsed
from .fit import Plan, Terms, fit
from .planner import ForQuality, ForSpeed, Given, Planner
from .rehearse import Stage, rehearse
from .search import cost, even, search
from .shelf import Kept, Shelf
from .statistics import Statistics

__all__ = [
    "SPEEDS",
    "Calibration",
    "ForQuality",
    "ForSpeed",
    "Given",
    "Kept",
    "Levels",
    "Plan",
    "Planner",
    "Rehearsed",
    "Shelf",
    "Stage",
    "Statistics",
    "Terms",
    "Trajectory",
    "calibrated",
    "cost",
    "even",
    "fit",
    "load",
    "plan",
    "rehearse",
    "rehearsed",
    "save",
    "search",
    "universal",
]
