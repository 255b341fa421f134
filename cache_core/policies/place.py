"""Policies that are another one at each part of the network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import RecipeError
from ..types import Branch, Observation, Place, Probe, Verdict
from .base import Policy
from .exam import AccumulatedError
from .guards import Guard


@dataclass(frozen=True, slots=True)
class Placed:
    """Asks the policy that `at` gives for the place of the stream; at a site with one place, the first."""

    @property
    def parts(self) -> tuple[Policy[Any], ...]:
        raise NotImplementedError

    def at(self, place: Place) -> Policy[Any]:
        raise NotImplementedError

    @property
    def probe(self) -> Probe:
        return next((part.probe for part in self.parts if part.probe is not Probe.NOTHING), Probe.NOTHING)

    def init(self) -> Any:
        return None

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        policy, state = self._of(state, seen)
        return policy.propose(state, seen)

    def settle(self, state: Any, seen: Observation, output: Tensor | None) -> Any:
        policy, state = self._of(state, seen)
        return policy.settle(state, seen, output)

    def _of(self, state: Any, seen: Observation) -> tuple[Policy[Any], Any]:
        policy = self.at(seen.place or Place(0))
        return policy, policy.init() if state is None else state

    def _check(self) -> None:
        probes = {part.probe for part in self.parts} - {Probe.NOTHING}
        if len(probes) > 1:
            raise RecipeError(
                f"{type(self).__name__}: its {len(self.parts)} policies look at {sorted(probe.value for probe in probes)}, and the "
                "network can show one of them. Take policies that look at the same."
            )


@dataclass(frozen=True, slots=True)
class PerPlace(Placed):
    """`policies[n]` at block n (site block and branch) or span n (site stack). Block Caching (arXiv:2312.03209) gives a mask to each."""

    policies: tuple[Policy[Any], ...]

    def __post_init__(self) -> None:
        if not self.policies:
            raise RecipeError("PerPlace got 0 policies and needs one for each block or span.")
        self._check()

    @property
    def parts(self) -> tuple[Policy[Any], ...]:
        return self.policies

    def at(self, place: Place) -> Policy[Any]:
        if place.index >= len(self.policies):
            raise RecipeError(
                f"PerPlace has {len(self.policies)} policies, and the model has a block or span {place.index + 1}. "
                "Give one to each, or restrict the recipe's spans."
            )
        return self.policies[place.index]


@dataclass(frozen=True, slots=True)
class PerBranch(Placed):
    """A policy for each kind of branch. Where a block has attention and MLP in one, the policy of its attention counts."""

    attention: Policy[Any]
    cross: Policy[Any]
    mlp: Policy[Any]

    def __post_init__(self) -> None:
        self._check()

    @property
    def parts(self) -> tuple[Policy[Any], ...]:
        return (self.attention, self.cross, self.mlp)

    def at(self, place: Place) -> Policy[Any]:
        return {Branch.CROSS: self.cross, Branch.MLP: self.mlp}.get(place.branch or Branch.ATTENTION, self.attention)


def goes_by_exams(policy: Policy[Any]) -> bool:
    """Whether the policy, or one inside it, looks at the error of forecasts that were not needed."""
    if isinstance(policy, Guard):
        return goes_by_exams(policy.inner)
    if isinstance(policy, Placed):
        return any(map(goes_by_exams, policy.parts))
    return isinstance(policy, AccumulatedError)
