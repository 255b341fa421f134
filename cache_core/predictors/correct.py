"""Predictors around a predictor: trust it less, or learn from how it would have done last time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import RecipeError
from ..types import Step
from .base import Predictor, Weighted


def _weighted(inner: Predictor, by: str) -> None:
    """Refuse what is no weighted sum of anchors."""
    if not isinstance(inner, Weighted):
        raise RecipeError(f"{by} goes around a weighted sum of anchors such as Lagrange(1), and {inner} is none: put it inside.")


def _inner(inner: Weighted, times: Sequence[float], step: Step) -> list[float]:
    """Weights of `inner`, which takes its own number of anchors only, as weights of all anchors at `times`."""
    weights = inner.table(times[-inner.depth :], step)
    return [0.0] * (len(times) - len(weights)) + weights


@dataclass(frozen=True, slots=True)
class Damped(Weighted):
    """Goes `factor` of the way from the newest anchor to the forecast of `inner`: 0 holds, 1 is `inner`."""

    inner: Weighted
    factor: float

    def __post_init__(self) -> None:
        _weighted(self.inner, "Damped")
        if not 0.0 <= self.factor <= 1.0:
            raise RecipeError(f"Damped takes a factor from 0 (hold) to 1 (the forecast as it is), not {self.factor}.")

    @property
    def depth(self) -> int:
        return self.inner.depth

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        weights = [self.factor * weight for weight in _inner(self.inner, times, step)]
        weights[-1] += 1.0 - self.factor
        return weights


@dataclass(frozen=True, slots=True)
class Corrected(Weighted):
    """Adds `gain` times the error that `inner` makes when it forecasts the newest anchor from the older ones.

    Ours, after the predictor-corrector pairs of ODE solvers. Needs one anchor more than `inner`; with one alone it is `inner`.
    """

    inner: Weighted
    gain: float

    def __post_init__(self) -> None:
        _weighted(self.inner, "Corrected")
        if not -1.0 <= self.gain <= 1.0:
            raise RecipeError(f"Corrected takes a gain from -1 to 1, not {self.gain}.")

    @property
    def depth(self) -> int:
        return self.inner.depth + 1

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        now = _inner(self.inner, times, step)
        if len(times) < 2:
            return now
        hindcast = _inner(self.inner, times[:-1], replace(step, sigma=times[-1]))
        error = [-weight for weight in hindcast] + [1.0]
        return [a + self.gain * b for a, b in zip(now, error, strict=True)]
