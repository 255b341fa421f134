"""One complete way of caching: when, what instead, where, and what is kept."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from .errors import RecipeError
from .history import Placement
from .policies import Policy
from .predictors import GuidanceBands, Predictor
from .types import Branch, Probe


class Site(Enum):
    """Where the cache stands."""

    GUIDED = "guided"  # one tensor: the velocity after classifier-free guidance
    COND = "cond"  # a tensor per condition: its own velocity, so that guidance runs at every evaluation
    UNCOND = "uncond"  # the velocity of the negative prompt, from that of the positive one, which is always computed
    STACK = "stack"  # the tokens after a span of transformer blocks, per condition
    BLOCK = "block"  # the tokens after each block, per condition: every block is decided on its own
    BRANCH = "branch"  # the outputs of each block's attention, cross-attention and MLP, per condition

    def __init__(self, name: str) -> None:
        self.inside = name in ("stack", "block", "branch")  # whether the site is inside the network


class Target(Enum):
    """What is kept of a site with input x and output y, both [B, ...].

    At GUIDED and COND, y is the velocity (x - x0) / sigma. At UNCOND, both are velocities: x with the prompt, y without.
    """

    OUTPUT = "output"
    RESIDUAL = "residual"

    def __init__(self, name: str) -> None:
        self._relative = name == "residual"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """What to keep."""
        return y - x if self._relative else y

    def decode(self, x: Tensor, feature: Tensor) -> Tensor:
        """The output again."""
        return x + feature if self._relative else feature


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks `start` up to `stop`, counted as in a slice: from the last block if negative, `stop` None is the end."""

    start: int = 0
    stop: int | None = None

    def of(self, total: int) -> range:
        """The span's blocks among `total`."""
        return range(total)[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parts that together define a method.

    Inside the network, the first `head` and the last `tail` blocks always run; `spans`, where given, say in their place
    which blocks are cached. `branches` are the parts of a block that are cached at the site branch.
    """

    policy: Policy[Any]
    predictor: Predictor
    site: Site = Site.GUIDED
    target: Target = Target.OUTPUT
    placement: Placement = field(default_factory=Placement)
    name: str = "custom"
    source: str = ""
    head: int = 0
    tail: int = 0
    spans: tuple[Span, ...] = ()
    branches: frozenset[Branch] = frozenset(Branch)
    layout: Hashable = field(init=False, repr=False, compare=False)  # all that says which parts of a network may be skipped

    def __post_init__(self) -> None:
        probe, site = self.policy.probe, self.site
        object.__setattr__(self, "layout", (site.value, self.head, self.tail, self.spans, self.branches, probe.value))
        if probe.inside and site not in (Site.STACK, Site.BLOCK):
            raise RecipeError(
                f"{self.name}: the policy looks at the {probe.value}, which only exists inside the network, but the site is "
                f"{site.value}. Use the site stack or block, or a policy that looks at the latent."
            )
        if probe is Probe.FIRST_BLOCK and self.head < 1:
            raise RecipeError(f"{self.name}: the policy looks at the {probe.value}, and head is {self.head}. Use head 1 or more.")
        if self.predictor.keeps_probes and probe is not Probe.FIRST_BLOCK:
            raise RecipeError(
                f"{self.name}: the predictor compares first-block residuals, but the policy looks at {probe.value}. "
                "Use a policy whose probe is the first-block residual, or another predictor."
            )
        if min(self.head, self.tail) < 0 or (max(self.head, self.tail) > 0 and not site.inside):
            raise RecipeError(
                f"{self.name}: head {self.head} and tail {self.tail} count blocks that always run, from 0, at the site stack; "
                f"the site is {site.value}. Set both to 0 or use the site stack, block or branch."
            )
        if isinstance(self.predictor, GuidanceBands) and (site is not Site.UNCOND or self.target is not Target.RESIDUAL):
            raise RecipeError(
                f"{self.name}: the predictor rebuilds the negative prompt's result from its difference to the positive's, but the site is "
                f"{site.value} and the target {self.target.value}. Use the site uncond and the target residual."
            )
        if self.predictor.corrects and (site not in (Site.GUIDED, Site.COND) or self.target is not Target.OUTPUT):
            raise RecipeError(
                f"{self.name}: the predictor corrects velocities, and at the site {site.value} with target {self.target.value} there "
                "are none. Use the site guided or cond and the target output."
            )
        self._check_branches()

    def _check_branches(self) -> None:
        if self.site is not Site.BRANCH:
            return
        if self.target is not Target.OUTPUT:
            raise RecipeError(
                f"{self.name}: a branch's output is what its block adds already: keep the output, not the {self.target.value}."
            )
        if not self.branches:
            raise RecipeError(
                f"{self.name}: none of {', '.join(branch.value for branch in Branch)} is switched on. Switch one on at least."
            )

    def cached(self, total: int) -> list[range]:
        """Spans of the network's `total` blocks that are cached; RecipeError if there are none or some twice."""
        spans = self.spans or (Span(self.head, max(total - self.tail, 0)),)
        found = [span.of(total) for span in spans]
        if not all(found):
            raise RecipeError(
                f"{self.name}: head {self.head} and tail {self.tail}, or the spans, leave none of the model's {total} blocks "
                "to cache. Make them smaller."
            )
        blocks = [block for span in found for block in span]
        if len(set(blocks)) < len(blocks):
            raise RecipeError(f"{self.name}: the spans share some of the model's {total} blocks. Make them shorter.")
        return found
