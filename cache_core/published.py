"""Methods as recipes. Read this file to see how they differ."""

from .policies import Interval, Mask, Never, Paced, Warmup
from .predictors import Hold, Lagrange
from .recipe import Recipe, Site
from .tables import FLUX_GOLDEN, WAN_GOLDEN


def encore(speed: float = 2.0, family: str = "flux", site: Site = Site.GUIDED) -> Recipe:
    """The default: a published mask carried over to the schedule at hand, order-1 forecast of the guided velocity.

    `family` picks the masks: "wan" has its own, every other model takes those of FLUX.1-dev.
    """
    masks = WAN_GOLDEN if family == "wan" else FLUX_GOLDEN
    return Recipe(Paced(speed, masks), Lagrange(1), site, name=f"Encore {speed:g}x", source=masks[0].source)


def measure() -> Recipe:
    """Computes everything; examines at every evaluation how well order 1 would have forecast it."""
    return Recipe(Never("measuring"), Lagrange(1), name="Encore Measure")


def fora(every: int = 3, warmup: int = 0) -> Recipe:
    """FORA's interval on the whole output: one evaluation in `every`, the last result in between."""
    return Recipe(Warmup(Interval(every), warmup), Hold(), name=f"interval {every}", source="arXiv:2407.01425")


def masked(computed: frozenset[int], total: int, order: int = 1, site: Site = Site.GUIDED) -> Recipe:
    """A mask of one's own with a Lagrange forecast."""
    return Recipe(Mask(computed, total), Lagrange(order), site, name=f"mask {len(computed)} of {total}")
