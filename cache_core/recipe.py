"""One complete way of caching: when, what instead, where, and what is kept."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from .errors import RecipeError
from .history import Placement
from .policies import Policy
from .predictors import Predictor
from .types import Probe


class Site(Enum):
    """Where the cache stands."""

    GUIDED = "guided"  # one tensor: the velocity after classifier-free guidance
    COND = "cond"  # a tensor per condition: its own velocity, so that guidance runs at every evaluation
    STACK = "stack"  # the tokens after a span of transformer blocks, per condition


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
    """Parts that together define a method. At STACK, the first `head` and the last `tail` blocks always run."""

    policy: Policy[Any]
    predictor: Predictor
    site: Site = Site.GUIDED
    target: Target = Target.OUTPUT
    placement: Placement = field(default_factory=Placement)
    name: str = "custom"
    source: str = ""
    head: int = 0
    tail: int = 0

    def __post_init__(self) -> None:
        probe, inside = self.policy.probe, self.site is Site.STACK
        if probe in (Probe.MODULATED, Probe.FIRST_BLOCK) and not inside:
            raise RecipeError(
                f"{self.name}: the policy looks at the {probe.value}, which only exists inside the network, but the site is "
                f"{self.site.value}. Use the site stack, or a policy that looks at the latent."
            )
        if probe is Probe.FIRST_BLOCK and self.head < 1:
            raise RecipeError(f"{self.name}: the policy looks at the {probe.value}, and head is {self.head}. Use head 1 or more.")
        if self.predictor.keeps_probes and probe is not Probe.FIRST_BLOCK:
            raise RecipeError(
                f"{self.name}: the predictor compares first-block residuals, but the policy looks at {probe.value}. "
                "Use a policy whose probe is the first-block residual, or another predictor."
            )
        if min(self.head, self.tail) < 0 or (max(self.head, self.tail) > 0 and not inside):
            raise RecipeError(
                f"{self.name}: head {self.head} and tail {self.tail} count blocks that always run, from 0, at the site stack; "
                f"the site is {self.site.value}. Set both to 0 or use the site stack."
            )
