"""How smooth a network's features are along a sampling: their change from step to step, block by block."""

from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from ..history import History
from ..measure import Ratio
from ..policies import Never
from ..predictors import Hold, Predictor
from ..recipe import Recipe, Site, Target
from ..types import Observation


@dataclass(slots=True)
class Landscape:
    """Sums of relative changes |h_t - h_(t-1)| / |h_t| of the tokens after each block, and how many were added, by block and step."""

    changes: dict[tuple[int, int], list[Ratio]] = field(default_factory=dict)

    def map(self) -> Tensor:
        """Mean changes [blocks, steps - 1] over all samplings and conditions."""
        blocks, steps = (1 + max(key[n] for key in self.changes) for n in (0, 1))
        found = torch.zeros(blocks, steps - 1)
        for (block, step), values in self.changes.items():
            found[block, step - 1] = fmean(map(float, values))
        return found


@dataclass(frozen=True, slots=True)
class Surveyed(Predictor):
    """Holds, and notes how far each computed feature is from the one before."""

    into: Landscape

    @property
    def depth(self) -> int:
        return 1

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        return Hold().predict(history, seen, x)

    def watch(self, history: History, seen: Observation, feature: Tensor) -> None:
        if len(history) and seen.place is not None:
            change = Ratio(history.miss([1.0], feature), feature)
            self.into.changes.setdefault((seen.place.index, seen.step.index), []).append(change)


def surveying(into: Landscape) -> Recipe:
    """Computes everything and measures; the landscape figure of arXiv:2411.17616 is made of it."""
    return Recipe(Never("measures features"), Surveyed(into), Site.BLOCK, Target.OUTPUT, name="feature landscape")
