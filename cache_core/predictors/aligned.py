"""Predictors of Block Caching: the held residual, aligned to its step; and the two that learn an alignment or a profile."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..blockcache.align import Alignment, apply
from ..history import History
from ..types import Observation
from .base import Predictor
from .polynomial import Hold


@dataclass(frozen=True, slots=True, eq=False)
class Aligned(Hold):
    """The last residual with scale and shift for its block and step (arXiv:2312.03209); held as it is outside of the blocks."""

    alignment: Alignment
    miss = Predictor.miss

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        held = Hold.predict(self, history, seen, x)
        found = self.alignment.at(seen.place.index, seen.step.sigma, held.device) if seen.place else None
        return held if found is None else apply(held, *found)


class Pupil(Protocol):
    """Something that learns an alignment while a sampling goes by: align.Rollouts, train.Training."""

    def align(self, block: int, sigma: float, x: Tensor, held: Tensor) -> Tensor:
        """The aligned residual [B, L, C] of a cached block with input tokens `x` and cached residual `held`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Learning(Hold):
    """The last residual, as the pupil would align it by now."""

    pupil: Pupil
    miss = Predictor.miss

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        held = Hold.predict(self, history, seen, x)
        return self.pupil.align(seen.place.index, seen.step.sigma, x, held) if seen.place else held


class Observer(Protocol):
    """Something that measures what is computed: profile.Changes, analysis.Redundancy."""

    def look(self, seen: Observation, new: Tensor, old: Tensor | None) -> None:
        """A computed feature [B, ...] and the one before it, if any."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Profiled(Hold):
    """Answers nothing: shows an observer each computed feature, and the one before it."""

    into: Observer

    def watch(self, history: History, seen: Observation, feature: Tensor) -> None:
        self.into.look(seen, feature, history.features[-1] if len(history) else None)
