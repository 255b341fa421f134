"""TRACE, our method: trajectory-return forecasts in closed form, from inner products along uncached trajectories."""

from .calibration import Calibration, Levels, load, plan, save, universal
from .collect import SPEEDS, Trajectory, calibrated
from .fit import Plan, fit
from .search import cost, even, search
from .statistics import Statistics

__all__ = [
    "SPEEDS",
    "Calibration",
    "Levels",
    "Plan",
    "Statistics",
    "Trajectory",
    "calibrated",
    "cost",
    "even",
    "fit",
    "load",
    "plan",
    "save",
    "search",
    "universal",
]
