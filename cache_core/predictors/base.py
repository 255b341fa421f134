"""The one interface every predictor has, and the shape nearly all of them take."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..history import History
from ..types import Observation


class Predictor(Protocol):
    """Stands in for a feature that is not computed."""

    @property
    def depth(self) -> int:
        """Anchors it wants kept."""
        ...

    @property
    def keeps_probes(self) -> bool:
        """Whether it wants the policy's probe kept beside each anchor."""
        return False

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        """Feature [B, ...] at `seen.step`, on the device and in the dtype of the site's input `x`, which stays as it is.

        `history` has one anchor at least.
        """
        ...


class Linear(Predictor, Protocol):
    """A predictor that is a weighted sum of anchors: all its mathematics is on Python floats."""

    @abstractmethod
    def weights(self, times: Sequence[float], time: float) -> list[float]:
        """One weight per anchor, oldest first, for anchors at `times` and a forecast at `time`; they sum to 1."""
        ...

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        return history.combine(self.weights(history.times, seen.step.sigma), x)
