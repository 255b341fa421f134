"""Our own methods: they go by the errors of forecasts, and need neither a table nor a look inside the network."""

from typing import Any

from comfy_api.latest import io

from ...cache_core import Site
from ...cache_core import published as p
from .base import Choice, Method, threshold

SITE = (
    "What is forecast. guided: the result after CFG, the fastest. cond: each condition by itself, so that nodes which change the guidance "
    "at every step still run."
)


def _widgets(tooltip: str) -> list[Any]:
    return [
        threshold("tolerance", 0.05, 1.0, tooltip),
        io.Combo.Input("site", options=[Site.GUIDED.value, Site.COND.value], default=Site.GUIDED.value, advanced=True, tooltip=SITE),
    ]


class EncoreEmbedded(Method):
    """Forecasts while two orders agree."""

    node_id, title = "EncoreEmbedded", "Embedded Pair"
    summary = "Ours: forecasts steps while forecasts of order 1 and 2 agree, as an ODE solver's embedded pair judges a step."
    aliases = ("embedded", "adaptive")

    @classmethod
    def widgets(cls) -> list[Any]:
        return _widgets(
            "Difference of the two forecasts, relative to the output, below which steps are forecast, 0 (compute all) to 1. "
            "Higher is faster and further from the uncached picture."
        )

    @classmethod
    def choose(cls, model: Any, tolerance: float, site: str) -> Choice:
        return Choice(p.embedded(tolerance, Site(site)))


class EncoreClosedLoop(Method):
    """Forecasts while the errors found at computed steps foretell small ones."""

    node_id, title = "EncoreClosedLoop", "Closed Loop"
    summary = "Ours: every computed step is an exam of the forecast; steps are forecast while the errors found foretell small ones."
    aliases = ("closed loop", "adaptive", "error")

    @classmethod
    def widgets(cls) -> list[Any]:
        return _widgets(
            "Summed expected error, relative to the output, below which steps are forecast, 0 (compute all) to 1. Higher is "
            "faster and further from the uncached picture."
        )

    @classmethod
    def choose(cls, model: Any, tolerance: float, site: str) -> Choice:
        return Choice(p.examined(tolerance, Site(site)))
