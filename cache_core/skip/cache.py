"""Skip-Cache: the middle blocks' result is kept, the outer blocks and their branches are always fresh."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..history import History
from ..policies import Within
from ..predictors import Hold, Predictor
from ..recipe import Recipe, Site, Target
from ..types import Observation
from .branch import Branch
from .cadence import Cadence


@dataclass(frozen=True)
class Bridged(Predictor):
    """The last feature as a branch, fitted in closed form, mends it by the fresh tokens at the span's entry.

    `branch` sees concat[last feature, entry], in the place of the deep block's input and of its skip.
    """

    branch: Branch

    @property
    def depth(self) -> int:
        return 1

    def macs(self, x: Tensor) -> int:
        weight = cast(Tensor, self.branch.linear.weight)
        return x.numel() // x.shape[-1] * weight.numel()

    @torch.no_grad()
    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        branch = self.branch.to(x.device, x.dtype)
        mended: Tensor = branch(history.combine([1.0], x), x)
        return mended


def skip_cache(
    every: int = 2,
    keep: int = 1,
    within: tuple[float, float] = (0.0, 1.0),
    levels: tuple[float, float] = (0.0, float("inf")),
    predictor: Predictor | None = None,
) -> Recipe:
    """Skip-Cache (arXiv:2411.17616, section 3.3): one whole evaluation in `every`; in the others the first and the last `keep` blocks.

    What enters the last `keep` blocks is that of the last whole evaluation, or what `predictor` makes of it, and the branches
    join it to the fresh output of the first ones. All is computed outside of the fractions `within` of the steps and of the noise
    `levels`, low and high; the authors' N2-700-50 is every 2 within the levels 0.05 to 0.7 of a model of rectified flow.
    """
    policy = Within(Cadence(every), *within, *levels)
    target = Target.RESIDUAL if isinstance(predictor, Bridged) else Target.OUTPUT
    source = "arXiv:2411.17616"
    return Recipe(policy, predictor or Hold(), Site.STACK, target, name="Skip-Cache", source=source, head=keep, tail=keep)
