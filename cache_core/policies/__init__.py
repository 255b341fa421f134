"""When to reuse."""

from .base import Policy
from .change import Change, Drift
from .embedded import Embedded
from .exam import AccumulatedError
from .fixed import Interval, Mask, Never
from .guards import AtMost, Budget, Guard, Tail, Warmup, Within
from .magnitude import Magnitude
from .paced import Paced
from .rate import OutputRate

__all__ = [
    "AccumulatedError",
    "AtMost",
    "Budget",
    "Change",
    "Drift",
    "Embedded",
    "Guard",
    "Interval",
    "Magnitude",
    "Mask",
    "Never",
    "OutputRate",
    "Paced",
    "Policy",
    "Tail",
    "Warmup",
    "Within",
]
