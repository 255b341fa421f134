"""The one interface every policy has."""

from typing import Protocol, TypeVar

from torch import Tensor

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
