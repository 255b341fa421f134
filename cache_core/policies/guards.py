"""Policies around a policy: each forbids reuse in one circumstance and otherwise asks the inner one."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import RecipeError
from ..types import Observation, Probe, Verdict
from .base import Policy


@dataclass(frozen=True, slots=True)
class Guard:
    """Asks `inner` on every call, so its running sums stay right, and overrules it where `forbids` says."""

    inner: Policy[Any]

    @property
    def probe(self) -> Probe:
        return self.inner.probe

    def forbids(self, seen: Observation) -> str | None:
        """Why this evaluation must be computed, or None."""
        raise NotImplementedError

    def init(self) -> Any:
        return self.inner.init()

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        verdict, state = self.inner.propose(state, seen)
        reason = self.forbids(seen)
        return (verdict if reason is None else Verdict(False, reason, verdict.score)), state

    def settle(self, state: Any, seen: Observation, output: Tensor | None) -> Any:
        return self.inner.settle(state, seen, output)


@dataclass(frozen=True, slots=True)
class AtMost(Guard):
    """At most `reuses` evaluations in a row."""

    reuses: int

    def __post_init__(self) -> None:
        if self.reuses < 0:
            raise RecipeError(f"AtMost needs 0 or more reuses in a row, not {self.reuses}.")

    def forbids(self, seen: Observation) -> str | None:
        return f"{seen.age} reused in a row" if seen.age >= self.reuses else None


@dataclass(frozen=True, slots=True)
class Warmup(Guard):
    """Compute the first `calls` evaluations of the run."""

    calls: int

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise RecipeError(f"Warmup needs 0 or more evaluations, not {self.calls}.")

    def forbids(self, seen: Observation) -> str | None:
        done = seen.step.evaluation
        return f"warm-up {done + 1} of {self.calls}" if done < self.calls else None


@dataclass(frozen=True, slots=True)
class Within(Guard):
    """Reuse only from fraction `start` up to fraction `end` of the schedule's steps."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise RecipeError(f"Within needs 0 <= start <= end <= 1, not start {self.start} and end {self.end}.")

    def forbids(self, seen: Observation) -> str | None:
        inside = self.start <= seen.step.progress < self.end
        return None if inside else f"{seen.step.progress:.0%} outside {self.start:.0%}-{self.end:.0%}"
