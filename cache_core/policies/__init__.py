"""When to reuse."""

from .base import Policy
from .fixed import Interval, Mask, Never
from .guards import AtMost, Guard, Warmup, Within
from .paced import Paced

__all__ = ["AtMost", "Guard", "Interval", "Mask", "Never", "Paced", "Policy", "Warmup", "Within"]
