"""The one interface every predictor has, and the shape nearly all of them take."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..history import History
from ..types import Step


class Predictor(Protocol):
    """Stands in for a feature that is not computed."""

    @property
    def depth(self) -> int:
        """Anchors it wants kept."""
        ...

    def predict(self, history: History, step: Step, x: Tensor) -> Tensor:
        """Feature [B, ...] at `step`, on the device and in the dtype of the span's input `x`, which stays as it is.

        `history` has one anchor at least.
        """
        ...


class Linear(Predictor, Protocol):
    """A predictor that is a weighted sum of anchors: all its mathematics is on Python floats."""

    @abstractmethod
    def weights(self, times: Sequence[float], time: float) -> list[float]:
        """One weight per anchor, oldest first, for anchors at `times` and a forecast at `time`; they sum to 1."""
        ...

    def predict(self, history: History, step: Step, x: Tensor) -> Tensor:
        return history.combine(self.weights(history.times, step.sigma), x)
