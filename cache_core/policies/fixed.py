"""Policies that decide from the step alone."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import RecipeError
from ..types import Observation, Probe, Verdict


@dataclass(frozen=True, slots=True)
class Fixed:
    """A policy without memory: what it wishes follows from the step and from what was done before it."""

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> None:
        return None

    def decide(self, seen: Observation) -> Verdict:
        raise NotImplementedError

    def propose(self, state: None, seen: Observation) -> tuple[Verdict, None]:
        return self.decide(seen), None

    def settle(self, state: None, seen: Observation, output: Tensor | None) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Never(Fixed):
    """Compute everything, for the reason given."""

    reason: str = "computes everything"

    def decide(self, seen: Observation) -> Verdict:
        return Verdict(False, self.reason)


@dataclass(frozen=True, slots=True)
class Interval(Fixed):
    """Compute one evaluation in `every`; reuse the others. FORA (arXiv:2407.01425), section 3.

    After a `Warmup` the first run of reuses is as long as the others, as in TaylorSeer's code; diffusers makes it one long.
    """

    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecipeError(f"Interval needs 1 (compute all) or more, not {self.every}.")

    def decide(self, seen: Observation) -> Verdict:
        return Verdict(seen.age + 1 < self.every, f"{seen.age + 1} of {self.every}")


@dataclass(frozen=True, slots=True)
class Mask(Fixed):
    """Compute the steps in `computed` of a schedule of `total` steps, and reuse at the others.

    A schedule of another length is refused: rescale the mask first (`masks.rescale`).
    """

    computed: frozenset[int]
    total: int

    def __post_init__(self) -> None:
        outside = sorted(n for n in self.computed if not 0 <= n < self.total)
        if 0 not in self.computed or outside:
            raise RecipeError(
                f"A mask of {self.total} steps needs step 0 and steps from 0 to {self.total - 1}; this one has "
                f"{'no step 0' if 0 not in self.computed else f'steps {outside}'}."
            )

    def decide(self, seen: Observation) -> Verdict:
        if seen.step.total != self.total:
            return Verdict(False, f"the mask is for {self.total} steps, not {seen.step.total}")
        reuse = seen.step.index not in self.computed
        return Verdict(reuse, "mask: reuse" if reuse else "mask: compute")
