"""The one interface every predictor has, and the shape nearly all of them take."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..history import History
from ..measure import wide
from ..types import Observation, Step
from .axis import Axis


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

    @property
    def keeps_inputs(self) -> bool:
        """Whether it wants the site's input kept beside each anchor, in the place of the probe."""
        return False

    @property
    def corrects(self) -> bool:
        """Whether it changes computed features too; they are velocities then."""
        return False

    def correct(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        """What to hand on [B, ...] in place of the computed `feature` [B, ...], which is the newest anchor by now."""
        return feature

    def watch(self, history: History, seen: Observation, feature: Tensor) -> None:
        """Look at a computed `feature` [B, ...] before it joins the anchors; most predictors have no need to."""
        return None

    def macs(self, history: History, seen: Observation, x: Tensor) -> int:
        """Multiply-accumulates of matrices of its own in a forecast, or correction, for the input `x` [B, ...]; nearly all have none."""
        return 0

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        """Feature [B, ...] at `seen.step`, on the device and in the dtype of the site's input `x`, which stays as it is.

        `history` has one anchor at least, and may have more than `depth`.
        """
        ...

    def miss(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        """Computed `feature` [B, ...] minus what `predict` would have answered, in at least float32: an exam."""
        return wide(feature) - self.predict(history, seen, x)


class Weighted(Predictor):
    """A predictor that is a weighted sum of anchors: all its mathematics is on Python floats."""

    @abstractmethod
    def table(self, times: Sequence[float], step: Step) -> list[float]:
        """One weight per anchor, oldest first, for at most `depth` anchors at noise levels `times` and a forecast at `step`."""

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        return history.combine(self.table(history.times[-self.depth :], seen.step), x)

    def miss(self, history: History, seen: Observation, x: Tensor, feature: Tensor) -> Tensor:
        return history.miss(self.table(history.times[-self.depth :], seen.step), feature)


class Linear(Weighted):
    """A weighted sum of anchors whose weights follow from the noise levels alone."""

    @abstractmethod
    def weights(self, times: Sequence[float], time: float) -> list[float]:
        """One weight per anchor, oldest first, for anchors at `times` and a forecast at `time`; they sum to 1 if not said otherwise."""

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        return self.weights(times, step.sigma)


class OnAxis(Linear):
    """One that may take something else than the noise level for time."""

    @property
    @abstractmethod
    def axis(self) -> Axis:
        """What `weights` takes for time."""

    def table(self, times: Sequence[float], step: Step) -> list[float]:
        axis, schedule = self.axis, step.schedule
        return self.weights([axis.at(time, schedule) for time in times], axis.at(step.sigma, schedule))
