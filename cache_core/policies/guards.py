"""Policies around a policy: each forbids reuse in one circumstance and otherwise asks the inner one."""

import math
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
class Retained(Guard):
    """Compute the first floor(`share` x steps + `more`) steps of the schedule.

    `more` is how the authors of a method round: 0.5 to the nearest, as MagCache for FLUX. For Wan, MagCache and DiCache cut off a
    part of 2 x steps calls, which for both conditions together is the same. 1 is a step more than the whole ones, as DiCache for FLUX.
    """

    share: float
    more: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.share <= 1.0 and 0.0 <= self.more <= 1.0):
            raise RecipeError(f"Retained needs a share and a part of a step more, each from 0 to 1, not {self.share} and {self.more}.")

    def forbids(self, seen: Observation) -> str | None:
        first = math.floor(self.share * seen.step.total + self.more)
        return f"step {seen.step.index + 1} of the first {first}" if seen.step.index < first else None


@dataclass(frozen=True, slots=True)
class Tail(Guard):
    """Compute the last `steps` steps of the schedule."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise RecipeError(f"Tail needs 0 or more steps, not {self.steps}.")

    def forbids(self, seen: Observation) -> str | None:
        left = seen.step.total - seen.step.index
        return f"{left} steps left of the last {self.steps}" if left <= self.steps else None


@dataclass(frozen=True, slots=True)
class Steps(Guard):
    """Reuse only from step `first` up to and with step `last`; a negative `last` counts from the end, -1 is the last step."""

    first: int = 0
    last: int = -1

    def __post_init__(self) -> None:
        if self.first < 0 or 0 <= self.last < self.first:
            raise RecipeError(f"Steps needs 0 <= first <= last, or a negative last, not first {self.first} and last {self.last}.")

    def forbids(self, seen: Observation) -> str | None:
        last = self.last if self.last >= 0 else seen.step.total + self.last
        inside = self.first <= seen.step.index <= last
        return None if inside else f"step {seen.step.index} outside {self.first} to {last}"


@dataclass(frozen=True, slots=True)
class Within(Guard):
    """Reuse only from fraction `start` up to fraction `end` of the schedule's steps, and at noise levels from `high` down to `low`.

    Fractions follow the steps that the sampler makes, noise levels the model: the two experts of Wan 2.2 and image to image
    see a part of the levels, and their fractions count that part alone.
    """

    start: float = 0.0
    end: float = 1.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise RecipeError(f"Within needs 0 <= start <= end <= 1, not start {self.start} and end {self.end}.")
        if not 0.0 <= self.low <= self.high:
            raise RecipeError(f"Within needs noise levels 0 <= low <= high, not low {self.low} and high {self.high}.")

    def forbids(self, seen: Observation) -> str | None:
        if not self.start <= seen.step.progress < self.end:
            return f"{seen.step.progress:.0%} outside {self.start:.0%}-{self.end:.0%}"
        inside = self.low <= seen.step.sigma <= self.high
        return None if inside else f"sigma {seen.step.sigma:.3g} outside {self.high:.3g}-{self.low:.3g}"


@dataclass(frozen=True, slots=True)
class Budget(Guard):
    """Compute exactly `evaluations` of the schedule: all that are left once no more can be spared, none once they are spent.

    To be the outermost guard, since it alone asks for reuse where `inner` would compute: what other guards keep for the end
    is reused if `inner` has spent the budget before. Exact where the solver evaluates once a step and every condition is
    there from the start; never more with other solvers. A budget of all the steps or more computes all of them.
    """

    evaluations: int

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise RecipeError(f"Budget needs 1 computed evaluation or more, not {self.evaluations}.")

    def forbids(self, seen: Observation) -> str | None:
        unspent, steps = self.evaluations - seen.computed, seen.step.total - seen.step.index
        return f"budget: {unspent} to compute in the last {steps} steps" if unspent >= steps else None

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        verdict, state = Guard.propose(self, state, seen)
        if seen.computed < self.evaluations:
            return verdict, state
        return Verdict(True, f"budget: {seen.computed} of {self.evaluations} computed", verdict.score), state
