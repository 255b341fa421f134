"""The one interface every policy has, and the comparison most of them end in."""

import math
from typing import Protocol, TypeVar

from torch import Tensor

from ..errors import RecipeError
from ..types import Observation, Probe, Verdict

S = TypeVar("S")


class Policy(Protocol[S]):
    """Decides, evaluation by evaluation, whether a cached feature may stand in for a computed one.

    A policy is a frozen dataclass of settings. What it remembers lives in a separate state that `init` makes and the
    other methods return anew, so one policy serves any number of streams and there is nothing to reset.
    """

    @property
    def probe(self) -> Probe:
        """What `propose` must be shown."""
        ...

    def init(self) -> S:
        """State before the first evaluation of a run."""
        ...

    def propose(self, state: S, seen: Observation) -> tuple[Verdict, S]:
        """Say whether to reuse, before anything is computed. Changes neither `state` nor `seen`."""
        ...

    def settle(self, state: S, seen: Observation, output: Tensor | None) -> S:
        """Learn what was done: `output` [B, ...] if it was computed, None if it was reused."""
        ...


def below(name: str, score: float, limit: float) -> Verdict:
    """Reuse if `score` is below `limit`. What is not a number is below nothing, and nothing is below a limit of 0."""
    if not math.isfinite(score):
        return Verdict(False, f"{name} {score} cannot be compared with {limit:.3g}")
    if limit == 0.0:
        return Verdict(False, f"{name} {score:.3g}, and a limit of 0 computes all", score)
    reuse = score < limit
    return Verdict(reuse, f"{name} {score:.3g} {'<' if reuse else '>='} {limit:.3g}", score)


def check_limit(policy: str, name: str, limit: float) -> None:
    """Refuse a limit below which nothing can be."""
    if not limit >= 0.0:
        raise RecipeError(f"{policy} needs a {name} of 0 (compute all) or more, not {limit}.")
