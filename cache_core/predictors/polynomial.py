"""Predictors that extend a polynomial in sigma."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecipeError
from .base import Linear


@dataclass(frozen=True, slots=True)
class Hold(Linear):
    """The last feature, unchanged."""

    @property
    def depth(self) -> int:
        return 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        return [1.0]


@dataclass(frozen=True, slots=True)
class Lagrange(Linear):
    """The polynomial through the last `order + 1` anchors: exact for polynomials of that order.

    Fewer anchors give a lower order. Orders above 1 explode on uneven anchors.
    """

    order: int

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise RecipeError(f"Lagrange takes an order from 0 to 4, not {self.order}; 1 is the one that is safe on any mask.")

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, times: Sequence[float], time: float) -> list[float]:
        return [math.prod((time - b) / (a - b) for b in times if b != a) for a in times]
