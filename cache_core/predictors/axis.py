"""The time axis a forecast is drawn over."""

from enum import Enum

from ..types import Schedule

SAME = 1e-4  # relative difference below which a noise level is one of the schedule's, as in Schedule.index


class Axis(Enum):
    """What a method calls time. The noise level is the true one; published methods that count steps need the others."""

    SIGMA = "sigma"
    STEP = "step"  # the schedule's steps, counted from 0; a fraction between two of its noise levels
    PROGRESS = "progress"  # steps / total, from 0 to 1

    def at(self, sigma: float, schedule: Schedule) -> float:
        """Where noise level `sigma` lies on this axis."""
        if self is Axis.SIGMA:
            return sigma
        place = position(sigma, schedule)
        return place if self is Axis.STEP else place / schedule.total


def position(sigma: float, schedule: Schedule) -> float:
    """The step at `sigma`, 0 to total, linear in sigma between two steps: samplers such as Heun evaluate there."""
    before = schedule.index(sigma)
    above, below = schedule.sigmas[before], schedule.sigmas[before + 1]
    if sigma >= above * (1.0 - SAME) or above == below:
        return float(before)
    return before + min((above - sigma) / (above - below), 1.0)
