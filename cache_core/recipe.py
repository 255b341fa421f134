"""One complete way of caching: when, what instead, where, and what is kept."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .history import Placement
from .policies import Policy
from .predictors import Predictor


class Site(Enum):
    """Where the cache stands."""

    GUIDED = "guided"  # one tensor: the velocity after classifier-free guidance
    COND = "cond"  # a tensor per condition: its own velocity, so that guidance runs at every evaluation


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parts that together define a method. What is kept is the output of the site, as velocity (x - x0) / sigma."""

    policy: Policy[Any]
    predictor: Predictor
    site: Site = Site.GUIDED
    placement: Placement = field(default_factory=Placement)
    name: str = "custom"
    source: str = ""
