"""One complete way of caching: when, what instead, where, and what is kept."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from .history import Placement
from .policies import Policy
from .predictors import Predictor


class Site(Enum):
    """Where the cache stands."""

    GUIDED = "guided"  # one tensor: the velocity after classifier-free guidance
    COND = "cond"  # a tensor per condition: its own velocity, so that guidance runs at every evaluation


class Target(Enum):
    """What is kept of a site with input x and output y, both [B, ...]. At GUIDED and COND, y is the velocity (x - x0) / sigma."""

    OUTPUT = "output"
    RESIDUAL = "residual"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """What to keep."""
        return y - x if self is Target.RESIDUAL else y

    def decode(self, x: Tensor, feature: Tensor) -> Tensor:
        """The output again."""
        return x + feature if self is Target.RESIDUAL else feature


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parts that together define a method."""

    policy: Policy[Any]
    predictor: Predictor
    site: Site = Site.GUIDED
    target: Target = Target.OUTPUT
    placement: Placement = field(default_factory=Placement)
    name: str = "custom"
    source: str = ""
