"""When to reuse."""

from .base import Policy
from .blocks import Scheduled, Shown
from .change import Change, Drift
from .embedded import Embedded
from .exam import AccumulatedError
from .fixed import Interval, Mask, Never
from .growing import Growing
from .guards import AtMost, Budget, Guard, Retained, Steps, Tail, Warmup, Within
from .magnitude import Magnitude
from .paced import Carried, Paced
from .place import PerBranch, PerPlace
from .rate import OutputRate
from .traced import ALARM, Collected, Traced

__all__ = [
    "ALARM",
    "AccumulatedError",
    "AtMost",
    "Budget",
    "Carried",
    "Change",
    "Collected",
    "Drift",
    "Embedded",
    "Growing",
    "Guard",
    "Interval",
    "Magnitude",
    "Mask",
    "Never",
    "OutputRate",
    "Paced",
    "PerBranch",
    "PerPlace",
    "Policy",
    "Retained",
    "Scheduled",
    "Shown",
    "Steps",
    "Tail",
    "Traced",
    "Warmup",
    "Within",
]
