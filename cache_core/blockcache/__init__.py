"""Block Caching (arXiv:2312.03209): a profile of each block's change, the schedule that follows from it, and its alignment."""

from .align import Alignment, Rollouts
from .profile import Changes, Profile
from .schedule import BlockSchedule, for_reduction, refreshes, schedule
from .train import Training
from .weigh import weighed

__all__ = [
    "Alignment",
    "BlockSchedule",
    "Changes",
    "Profile",
    "Rollouts",
    "Training",
    "for_reduction",
    "refreshes",
    "schedule",
    "weighed",
]
