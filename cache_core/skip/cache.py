"""Skip-Cache: the middle blocks' result is kept, the outer blocks and their branches are always fresh."""

from dataclasses import dataclass

from torch import Tensor

from ..history import History
from ..policies import Within
from ..predictors import Hold, Predictor
from ..recipe import Recipe, Site, Target
from ..types import Observation
from .cadence import Cadence


@dataclass(frozen=True, eq=False)
class Bridged(Predictor):
    """The last residual of the middle blocks, and `matrix` [D, D] times what their input changed by since: ours, see fit.py.

    With matrix 0 it is a residual that is held. The site's target is the residual.
    """

    matrix: Tensor

    @property
    def depth(self) -> int:
        return 1

    @property
    def keeps_inputs(self) -> bool:
        return True

    def macs(self, history: History, seen: Observation, x: Tensor) -> int:
        return x.numel() * self.matrix.shape[0]

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        before = history.probes[-1]
        assert before is not None, "the stream keeps it"
        return history.combine([1.0], x) + (x - before.to(x)) @ self.matrix.to(x).T


def skip_cache(
    every: int = 2,
    keep: int = 1,
    within: tuple[float, float] = (0.0, 1.0),
    levels: tuple[float, float] = (0.0, float("inf")),
    predictor: Predictor | None = None,
    deep: int | None = None,
) -> Recipe:
    """Skip-Cache (arXiv:2411.17616, section 3.3): one whole evaluation in `every`; in the others the first and the last `keep` blocks.

    `deep` is the number of the last ones, where that is another. What enters them is that of the last whole evaluation, or what
    `predictor` makes of it, and the branches join it to the fresh output of the first ones. All is computed outside of the fractions
    `within` of the steps and of the noise `levels`, low and high; the authors' N2-700-50 is every 2 within the levels 0.05 to 0.7 of a
    model of rectified flow.
    """
    policy = Within(Cadence(every), *within, *levels)
    target = Target.RESIDUAL if isinstance(predictor, Bridged) else Target.OUTPUT
    source = "arXiv:2411.17616"
    return Recipe(policy, predictor or Hold(), Site.STACK, target, name="Skip-Cache", source=source, head=keep, tail=deep or keep)
